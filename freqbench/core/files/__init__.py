"""Files here and elsewhere: folders, buckets, downloads, a copy for each node."""
