"""Reads, migrates and writes checkpoint files."""
