"""Can the numbers be believed? Checks of a store, probes that go beyond its rows, recomputation, verification."""
