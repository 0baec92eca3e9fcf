"""Files here and elsewhere. All rooms read and write through `storage`.

`storage` opens paths and URIs by `filesystems` and copies remote objects by `downloads`, which keeps them in the
`node_cache`. Imports follow this order.
"""
