"""Files here and elsewhere. All rooms read and write through `storage`. `storage` opens paths and URIs by `filesystems`
and copies remote objects by `downloads`, which keeps them in the `node_cache`. `kept` keeps values there, in a process,
or in a store. Imports follow this order."""
