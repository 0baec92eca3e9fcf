"""Writes a run's rows in committed pairs of files."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freqbench.core import storage
from freqbench.results.rows import to_table
from freqbench.results.schema import CLASS_RECORDS, COMMIT, RECORDS

MAX_RECORDS = 5000

Row = Mapping[str, Any]


def commit(root: str, name: str, records: pa.Table, class_records: pa.Table) -> None:
    """Writes a pair of files with these rows."""
    put_pair(root, name, _encoded(records), _encoded(class_records))


def put_pair(root: str, name: str, records: bytes, class_records: bytes) -> None:
    """Writes a pair of files; the second is the commit, so that a reader sees both or neither."""
    storage.write_atomic(storage.join(root, "class_records", name), class_records)
    storage.write_atomic(storage.join(root, "records", name), records)


class Writer:
    """Buffers a run's rows and commits them in files of about 5,000 records or `interval_s` seconds; for one thread.

    `add`, `flush_due` and `flush` return the number of records that they committed: all that were waiting, or none.
    Rows whose commit fails keep waiting, and are tried again `interval_s` seconds later.
    """

    def __init__(self, root: str, run_id: str, interval_s: float = 15.0) -> None:
        self._root = root
        self._run_id = run_id
        self._interval_s = interval_s
        self._waiting: dict[tuple[Any, ...], tuple[Row, list[Row]]] = {}
        self._flushed_at = time.monotonic()
        self._has_failed = False
        self._sequence = _next_sequence(root, run_id)

    def add(self, records: Sequence[Row], class_records: Sequence[Row]) -> int:
        """Queues rows of `RECORDS` and their `CLASS_RECORDS`; adding a row twice has no further effect.

        Raises ValueError if a row does not fit the schema or is of another run, or a class row lacks its record.
        """
        to_table(RECORDS, records)  # refuses these rows alone, before they spoil a whole file
        to_table(CLASS_RECORDS, class_records)
        new: dict[tuple[Any, ...], tuple[Row, list[Row]]] = {_commit_of(row): (row, []) for row in records}
        if any(row["run_id"] != self._run_id for row in records):
            raise ValueError(f"a row of another run was given to the writer of run {self._run_id!r}")
        for row in class_records:
            if _commit_of(row) not in new:
                raise ValueError(f"a class row has no record that equals it in {COMMIT}: {_commit_of(row)}")
            new[_commit_of(row)][1].append(row)
        self._waiting |= new
        return self.flush_due()

    def flush_due(self) -> int:
        """Commits if 5,000 records wait or the last commit is `interval_s` ago; for the caller's loop."""
        is_full = len(self._waiting) >= MAX_RECORDS and not self._has_failed
        due = is_full or time.monotonic() - self._flushed_at >= self._interval_s
        return self.flush() if due else 0

    def flush(self) -> int:
        """Commits the waiting rows."""
        count = len(self._waiting)
        if count:
            records = to_table(RECORDS, (row for row, _ in self._waiting.values()))
            classes = to_table(CLASS_RECORDS, (row for _, rows in self._waiting.values() for row in rows))
            name = f"{self._run_id}-{self._sequence:06d}.parquet"
            self._sequence += (
                1  # incremented first, as a commit that raised may have reached a remote store: no name is used twice
            )
            self._has_failed, self._flushed_at = True, time.monotonic()
            commit(self._root, name, records, classes)
            self._has_failed, self._waiting = False, {}
        self._flushed_at = time.monotonic()
        return count

    @property
    def num_waiting(self) -> int:
        """Number of records that are not committed yet."""
        return len(self._waiting)


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _commit_of(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in COMMIT)


def _next_sequence(root: str, run_id: str) -> int:
    """Returns the number after the last of the run's files, committed or not."""
    used = [0]
    for kind in ("records", "class_records"):
        for name in storage.list_files(storage.join(root, kind), ".parquet"):
            owner, _, number = name.removesuffix(".parquet").rpartition("-")
            if owner == run_id and number.isdecimal():
                used.append(int(number) + 1)
    return max(used)
