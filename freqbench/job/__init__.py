"""Turns a job file into a grid of cells, and plans what is left of it."""
