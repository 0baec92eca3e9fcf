"""Result stores: their columns, the Parquet files that are committed, read and compacted, and the lease."""

from freqbench.results.lease import Lease as Lease
from freqbench.results.lease import Shard as Shard
from freqbench.results.schema import CLASS_RECORDS as CLASS_RECORDS
from freqbench.results.schema import KEY as KEY
from freqbench.results.schema import RECORDS as RECORDS
from freqbench.results.schema import SCHEMA_VERSION as SCHEMA_VERSION
from freqbench.results.schema import Column as Column
from freqbench.results.schema import require_free as require_free
from freqbench.results.store import Key as Key
from freqbench.results.store import Store as Store
from freqbench.results.store import index_keys as index_keys
from freqbench.results.winners import latest as latest
from freqbench.results.writer import Writer as Writer
from freqbench.results.writer import to_table as to_table
