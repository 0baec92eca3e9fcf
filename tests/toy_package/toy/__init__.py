"""A package of somebody else: what the README shows as one's own model, dataset and attack."""
