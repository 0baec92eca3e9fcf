"""One dataset, or one layout of folders, a file."""
