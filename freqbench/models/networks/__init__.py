"""Builds networks."""
