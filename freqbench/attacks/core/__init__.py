"""Holds the parts that all attacks share: contract, task, losses and their options, ensembles, threat models."""
