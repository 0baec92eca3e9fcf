"""What everybody may import: errors, types, identities, names, files, documents, terminal."""
