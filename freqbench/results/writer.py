"""Writes a run's rows in files, each a commit, and refuses rows that do not fit the schema."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freqbench.core.files import storage
from freqbench.results.nested import leaves_of, nest, types_of
from freqbench.results.schema import CLASS_RECORDS, COMMIT, RECORDS, ROWS, Column, arrow_schema

MAX_RECORDS = 5000
TEXTS = [name for name, kind in zip(leaves_of(ROWS), types_of(ROWS).values(), strict=True) if pa.types.is_string(kind)]
OPTIONS = {"compression": "zstd", "write_page_checksum": True, "use_dictionary": TEXTS}  # numbers pack better without
_REFUSALS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)  # errors that Arrow raises on values that do not fit
Row = Mapping[str, Any]


def commit(root: str, name: str, rows: pa.Table) -> None:
    """Writes the file `name` of rows with their classes into the store at `root`: its put is the commit."""
    write_table(storage.join(root, "records", name), rows, **OPTIONS)


def write_table(path: str, table: pa.Table, **options: Any) -> None:
    """Writes a `table` as a Parquet file at `path`, whole or not at all; `options` go to pyarrow."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    storage.write_atomic(path, bytes(sink.getvalue()))


class Writer:
    """Buffers a run's rows and commits them in files of about 5,000 records or `interval_s` seconds; for one thread.
    Methods return the number of committed records; rows whose commit fails wait `interval_s` seconds more."""

    def __init__(self, root: str, run_id: str, interval_s: float = 15.0) -> None:
        self._root = root
        self._run_id = run_id
        self._interval_s = interval_s
        self._waiting = set[tuple[Any, ...]]()  # COMMIT of the rows of `_tables`
        self._tables: list[pa.Table] = []
        self._flushed_at = time.monotonic()
        self._has_failed = False
        files = storage.list_files(storage.join(root, "records"), ".parquet")
        parts = (name.removesuffix(".parquet").rpartition("-") for name in files)
        used = [int(number) for owner, _, number in parts if owner == run_id and number.isdecimal()]
        self._sequence = max(used, default=-1) + 1  # after the last of the run's files, committed or not
        self.names = set[str]()  # of the files committed so far

    def add(self, records: Sequence[Row], class_records: Sequence[Sequence[Row]]) -> int:
        """Queues `records`, rows of RECORDS, each with its `class_records`, once; ValueError for a misfit, or a row of
        another run."""
        table = to_rows(records, class_records)
        if any(row["run_id"] != self._run_id for row in records):
            raise ValueError(f"a row of another run was given to the writer of run {self._run_id!r}")
        commits = [*map(itemgetter(*COMMIT), records)]
        self._tables.append(table.filter(pa.array([commit not in self._waiting for commit in commits], pa.bool_())))
        self._waiting.update(commits)
        return self.flush_due()

    def flush_due(self) -> int:
        """Commits if 5,000 records wait or the last commit is `interval_s` ago; for the caller's loop."""
        is_full = len(self._waiting) >= MAX_RECORDS and not self._has_failed
        return self.flush() if (is_full or time.monotonic() - self._flushed_at >= self._interval_s) else 0

    def flush(self) -> int:
        """Commits the waiting rows."""
        if not (count := len(self._waiting)):
            return 0
        name = f"{self._run_id}-{self._sequence:06d}.parquet"
        self._sequence += 1  # first, as a commit that raised may have reached a remote store: no name is used twice
        self._has_failed = True
        self._flushed_at = time.monotonic()
        commit(self._root, name, pa.concat_tables(self._tables))
        self.names.add(name)
        self._has_failed = False
        self._waiting = set()
        self._tables = []
        self._flushed_at = time.monotonic()
        return count

    @property
    def num_waiting(self) -> int:
        """Number of records that are not committed yet."""
        return len(self._waiting)


def to_rows(records: Sequence[Row], class_records: Sequence[Sequence[Row]]) -> pa.Table:
    """Converts `records`, rows of RECORDS, each with those of CLASS_RECORDS in `class_records`, to a table of ROWS;
    ValueError as `to_table`."""
    counts = [len(rows) for rows in class_records]
    return nest(to_table(RECORDS, records), to_table(CLASS_RECORDS, chain.from_iterable(class_records)), counts)


def to_table(columns: Sequence[Column], rows: Iterable[Row]) -> pa.Table:
    """Converts rows with exactly these columns to an Arrow table: NaN stays, None becomes null. Raises ValueError for
    columns missing, unknown, required but None, of the wrong type, or times without a zone."""
    rows = [dict(row) for row in rows]
    prepared = _prepared(tuple(columns))
    for row in rows:
        _check(row, prepared)
    try:
        # All columns in one call: one call per column takes five times as long on the few rows of a unit.
        structs = pa.array(rows, type=prepared.struct)
    except _REFUSALS as error:
        raise _misfit(columns, rows, error) from error
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(structs)]).replace_schema_metadata(prepared.metadata)


class _Prepared:
    def __init__(self, columns: tuple[Column, ...]) -> None:
        schema = arrow_schema(columns)
        self.names = frozenset(schema.names)
        self.struct = pa.struct(list(schema))
        self.metadata = schema.metadata
        self.required = [column.name for column in columns if column.required]
        self.whole = [column.name for column in columns if pa.types.is_integer(column.type)]
        self.times = [column.name for column in columns if pa.types.is_timestamp(column.type)]


_prepared = lru_cache(_Prepared)  # once per table


def _check(row: Row, schema: _Prepared) -> None:
    """Refuses rows that Arrow would accept."""
    given = row.keys()
    wanted = schema.names
    if given != wanted:
        missing = sorted(wanted - given)
        unknown = sorted(given - wanted)
        raise ValueError(f"a row must have exactly the schema's columns: missing {missing}, unknown {unknown}")
    for name in schema.required:
        if row[name] is None:
            raise ValueError(f"column {name!r} must not be None")
    for name in schema.times:
        if isinstance(row[name], datetime) and row[name].tzinfo is None:
            raise ValueError(f"column {name!r}: a time needs a zone: use datetime.now(UTC)")
    for name in schema.whole:
        if isinstance(row[name], float):
            raise ValueError(f"column {name!r} must be {pa.int64()}, got a float: it would be cut off")


def _misfit(columns: Sequence[Column], rows: Sequence[Row], error: Exception) -> ValueError:
    """Explains Arrow's error with the column, which Arrow does not name when it converts whole rows."""
    for column in columns:
        try:
            pa.array([row[column.name] for row in rows], type=column.type)
        except _REFUSALS as refusal:
            return ValueError(f"column {column.name!r} must be {column.type}: {refusal}")
    return ValueError(str(error))
