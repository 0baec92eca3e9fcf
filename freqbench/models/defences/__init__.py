"""Defends a network: input transformations and randomised smoothing around it."""
