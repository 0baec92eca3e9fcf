"""A package of somebody else: what docs/how-to/own-classes.md shows as one's own model, dataset and attack."""
