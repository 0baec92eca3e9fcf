"""Reads datasets: one dataset, or one layout of folders, a file."""
