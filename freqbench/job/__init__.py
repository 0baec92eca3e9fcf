"""Turns a job file into a grid of cells, and plans the part of it that is still to compute."""
