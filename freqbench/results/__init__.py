"""Result stores: their columns, the Parquet files that are committed, read and compacted, and the lease."""

from freqbench.results.lease import Lease, Shard
from freqbench.results.schema import CLASS_RECORDS, KEY, RECORDS, SCHEMA_VERSION, Column, require_free
from freqbench.results.store import Key, Store, index_keys
from freqbench.results.winners import latest
from freqbench.results.writer import Writer, to_table

__all__ = ["CLASS_RECORDS", "KEY", "RECORDS", "SCHEMA_VERSION", "Column", "Key", "Lease", "Shard", "Store", "Writer"]
__all__ += ["index_keys", "latest", "require_free", "to_table"]
