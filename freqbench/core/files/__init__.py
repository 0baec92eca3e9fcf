"""Files here and elsewhere, which all rooms read and write through `storage`; imports follow this order: it opens URIs
by `filesystems`, copies by `downloads` into the `node_cache`; `kept` keeps values there or in a store."""
