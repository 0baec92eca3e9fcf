"""From a job file to a grid of cells, and the plan of what is left of it."""
