"""Architectures and their table."""
