"""Checkpoint files: reading, migrating, and what those of freqbench say of themselves."""
