"""Merges the many small files of a store into few large ones, in bounded memory, while others read, write or merge.
Files are merged a group at a time: the group's rows are written to one new file, and only then are its old files
deleted. Two compactions may run at once. A row is dropped only if a younger file holds it too, and a merged file is
younger than its sources: its name ends in its generation, one more than the highest of theirs. So every row stays in
some file, even if a compaction dies before it deletes its sources. A file that somebody put there under another name is
only read; one with further columns stays as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from freqbench.core.files import storage
from freqbench.results.files import MERGED_PREFIX, OWN_NAME, Files
from freqbench.results.nested import types_of
from freqbench.results.schema import ROWS
from freqbench.results.winners import ORDER, split_winners
from freqbench.results.writer import OPTIONS

MIB = 2**20
FULL_BYTES = 64 * MIB  # a merged file of this size is closed; one of half this size is left alone
PIECE_BYTES = 32 * MIB  # rows in memory that become a row group
ALWAYS_BYTES = 4 * MIB
MOST_LOST = 0.1  # share of superseded rows above which a file is rewritten


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A committed file."""

    name: str
    size: int  # bytes
    wins: NDArray[np.bool_]  # for each row, True if it wins

    @property
    def lost(self) -> int:
        """Number of superseded rows."""
        return int(len(self.wins) - np.count_nonzero(self.wins))


def compact(files: Files, above: int) -> None:
    """Compacts a store: see `Store.compact`."""
    if len(files.names()) > above:
        files.consistent(lambda names: _merge(files, names))
        pa.default_memory_pool().release_unused()  # otherwise a run keeps the merge's memory to its end


def choose(files: Sequence[StoredFile]) -> list[StoredFile]:
    """Returns the files to merge: those with many superseded rows, and small ones, while a file is not larger than all
    smaller ones together: so a row is copied a few times in a store's life, and few files remain."""
    small = []
    names: set[str] = set()
    total = 0
    for file in sorted(files, key=lambda file: file.size):
        if file.size < FULL_BYTES / 2:
            small.append(file.name)
            if file.size <= max(ALWAYS_BYTES, total):
                names = set(small)
            total += file.size
    worthwhile = [file for file in files if file.lost > MOST_LOST * len(file.wins) or file.name in names]
    return worthwhile if len(worthwhile) > 1 or any(file.lost for file in worthwhile) else []


def _merge(files: Files, names: Sequence[str]) -> None:
    names = list(filter(OWN_NAME.fullmatch, names))
    merged = _Merged(files)
    sizes = storage.list_sizes(storage.join(files.root, "records"), ".parquet")
    tables = list(files.each(lambda name: files.columns(name, ORDER), names))
    ranks = {name: rank for rank, name in enumerate(sorted(names, key=_age))}
    wins = split_winners(tables, [ranks[name] for name in names])
    del tables
    pairs = zip(names, wins, strict=True)
    chosen = choose([StoredFile(name=name, size=sizes.get(name, 0), wins=own) for name, own in pairs])
    for file, source in zip(chosen, files.each(lambda file: files.open(file.name), chosen), strict=True):
        if len(types_of(files.schema(file.name, source))) <= len(types_of(ROWS)):  # else a merge would lose columns
            merged.add(file, source)
        if merged.num_bytes >= FULL_BYTES:
            merged.commit()
            merged = _Merged(files)
    merged.commit()


class _Merged:
    """A Parquet file in memory, written in row groups of about PIECE_BYTES."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._names: list[str] = []
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, ROWS, **OPTIONS)
        self._waiting: list[pa.Table] = []
        self._num_waiting = self._num_rows = 0

    @property
    def num_bytes(self) -> int:
        return int(self._sink.tell())

    def add(self, file: StoredFile, source: Any) -> None:
        self._names.append(file.name)
        for piece in self._files.pieces(file.name, source, keep=file.wins if file.lost else None):
            self._num_rows += len(piece)
            self._waiting.append(piece)
            self._num_waiting += piece.nbytes
            if self._num_waiting >= PIECE_BYTES:
                self._write()

    def commit(self) -> None:
        """Writes the merged file, and then removes its sources."""
        if self._num_rows:
            if self._waiting:
                self._write()
            self._writer.close()
            name = f"{MERGED_PREFIX}{uuid4().hex[:16]}-{(1 + max(_age(name)[0] for name in self._names)):06d}.parquet"
            storage.write_atomic(storage.join(self._files.root, "records", name), bytes(self._sink.getvalue()))
        self._files.remove(self._names)

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self._waiting = []
        self._num_waiting = 0


def _age(name: str) -> tuple[int, str]:
    """Returns a file's generation (0 for a run's own file) and its name: the larger, the younger."""
    generation = name.removesuffix(".parquet").rpartition("-")[2]
    return int(generation) if name.startswith(MERGED_PREFIX) and generation.isdecimal() else 0, name
