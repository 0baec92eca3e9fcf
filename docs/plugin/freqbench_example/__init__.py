"""A plugin of freqbench, to copy: an attack, a dataset and a network."""
