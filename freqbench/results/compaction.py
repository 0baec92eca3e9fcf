"""Merges the many small files of a store into few large ones, in bounded memory, while others read, write or merge.

Files are merged a group at a time: the group's rows are written to one new pair, and only then are its old pairs
deleted. Two compactions may run at once. A row is dropped only if a younger file holds it too, and a merged file is
younger than its sources: its name ends in its generation, one more than the highest of theirs. So every row stays in
some file, even if a compaction dies before it deletes its sources.

A file that somebody put there under another name is only read; one with further columns stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from freqbench.core.files import storage
from freqbench.results.files import MERGED_PREFIX, OWN_NAME, SCHEMAS, Files
from freqbench.results.winners import ORDER, commit_text, split_winners
from freqbench.results.writer import put_pair

MIB = 2**20
FULL_BYTES = 64 * MIB  # a merged pair of this size is closed; one of half this size is left alone
PIECE_BYTES = 32 * MIB  # rows in memory that become a row group
ALWAYS_BYTES = 4 * MIB
MOST_LOST = 0.1  # share of superseded rows above which a file is rewritten


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A committed pair of files."""

    name: str
    size: int  # bytes of both
    wins: NDArray[np.bool_]  # for each record, True if it wins

    @property
    def lost(self) -> int:
        """Number of superseded records."""
        return int(len(self.wins) - np.count_nonzero(self.wins))


def compact(files: Files, above: int) -> None:
    """Compacts a store: see `Store.compact`."""
    if len(files.names()) > above:
        files.consistent(lambda names: _merge(files, choose(_pairs(files, list(filter(OWN_NAME.fullmatch, names))))))
        pa.default_memory_pool().release_unused()  # otherwise a run keeps the merge's memory to its end


def choose(pairs: Sequence[Pair]) -> list[Pair]:
    """Returns the pairs to merge: small ones, and those with many superseded records.

    A pair is left alone while it is larger than all smaller pairs together: so a row is copied a few times in the life
    of a store, not once per run, and few pairs remain.
    """
    small, names, total = [], set[str](), 0
    for pair in sorted(pairs, key=lambda pair: pair.size):
        if pair.size < FULL_BYTES / 2:
            small.append(pair.name)
            if pair.size <= max(ALWAYS_BYTES, total):
                names = set(small)
            total += pair.size
    worthwhile = [pair for pair in pairs if pair.lost > MOST_LOST * len(pair.wins) or pair.name in names]
    return worthwhile if len(worthwhile) > 1 or any(pair.lost for pair in worthwhile) else []


def _pairs(files: Files, names: list[str]) -> list[Pair]:
    sizes = [storage.list_sizes(storage.join(files.root, kind), ".parquet") for kind in SCHEMAS]
    tables = list(files.each(lambda name: files.columns("records", name, ORDER), names))
    ranks = {name: rank for rank, name in enumerate(sorted(names, key=_age))}
    wins = split_winners(tables, [ranks[name] for name in names])
    return [
        Pair(name=name, size=sum(size.get(name, 0) for size in sizes), wins=of_pair)
        for name, of_pair in zip(names, wins, strict=True)
    ]


def _merge(files: Files, pairs: Sequence[Pair]) -> None:
    merged = _Merged(files)
    for pair, sources in zip(pairs, files.each(lambda pair: _open_pair(files, pair), pairs), strict=True):
        if sources:
            merged.add(pair, *sources)
        if merged.num_bytes >= FULL_BYTES:
            merged.commit()
            merged = _Merged(files)
    merged.commit()


def _open_pair(files: Files, pair: Pair) -> list[Any]:
    """Opens both files of a pair; returns an empty list if a merge would lose some of their columns."""
    sources = {kind: files.open(kind, pair.name) for kind in SCHEMAS}
    has_more = any(len(files.schema(kind, pair.name, source)) > len(SCHEMAS[kind]) for kind, source in sources.items())
    return [] if has_more else list(sources.values())


class _Merged:
    def __init__(self, files: Files) -> None:
        self._files, self._pairs = files, list[str]()
        self._records, self._classes = (_Output(schema) for schema in SCHEMAS.values())

    @property
    def num_bytes(self) -> int:
        return self._records.num_bytes + self._classes.num_bytes

    def add(self, pair: Pair, records: Any, classes: Any) -> None:
        self._pairs.append(pair.name)
        counted, start = [SCHEMAS["records"].empty_table()], 0
        for piece in self._files.pieces("records", pair.name, records):
            if pair.lost:
                piece, start = piece.filter(pa.array(pair.wins[start : start + len(piece)])), start + len(piece)
                counted.append(piece)
            self._records.add(piece)
        commits = commit_text(pa.concat_tables(counted))
        for piece in self._files.pieces("class_records", pair.name, classes):
            if pair.lost:
                piece = piece.filter(pc.is_in(commit_text(piece), value_set=commits))
            self._classes.add(piece)

    def commit(self) -> None:
        """Writes the merged pair, and removes its sources: records first, so that no record loses its classes."""
        if not self._pairs:
            return
        if self._records.num_rows:
            generation = 1 + max(_age(name)[0] for name in self._pairs)
            name = f"{MERGED_PREFIX}{uuid4().hex[:16]}-{generation:06d}.parquet"
            put_pair(self._files.root, name, self._records.finish(), self._classes.finish())
        for kind in ("records", "class_records"):
            self._files.remove(kind, self._pairs)


class _Output:
    """A Parquet file in memory, written in row groups of about PIECE_BYTES."""

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", write_page_checksum=True)
        self._waiting: list[pa.Table] = []
        self._num_waiting = self.num_rows = 0

    @property
    def num_bytes(self) -> int:
        return int(self._sink.tell())

    def add(self, piece: pa.Table) -> None:
        self.num_rows += len(piece)
        self._waiting.append(piece)
        self._num_waiting += piece.nbytes
        if self._num_waiting >= PIECE_BYTES:
            self._write()

    def finish(self) -> bytes:
        if self._waiting:
            self._write()
        self._writer.close()
        return bytes(self._sink.getvalue())

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self._waiting, self._num_waiting = [], 0


def _age(name: str) -> tuple[int, str]:
    """Returns a file's generation (0 for a run's own file) and its name: the larger, the younger."""
    generation = name.removesuffix(".parquet").rpartition("-")[2]
    return int(generation) if name.startswith(MERGED_PREFIX) and generation.isdecimal() else 0, name
