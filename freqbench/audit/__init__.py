"""Judges whether the numbers can be believed: checks of a store, probes beyond its rows, recomputation."""
