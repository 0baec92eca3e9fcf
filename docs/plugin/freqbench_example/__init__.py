"""A plugin of freqbench, to copy: an attack, a dataset, a network and a metric."""
