"""Modules that every room may import: errors, types, identities, names, files, documents, measures, terminal."""

__version__ = "0.3.0"
