"""Modules that every room may import: errors, types, identities, names, files, documents, terminal."""
