"""Training of the models that are attacked."""
