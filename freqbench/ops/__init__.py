"""Pure tensor functions: no classes, no I/O, no global state."""
