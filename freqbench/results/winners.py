"""Chooses the row of a key that counts: ok before failed, then the latest."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freqbench.results.schema import KEY

ORDER = (*KEY, "finished_at", "run_id", "status")  # the columns that decide which row wins
Numbers = NDArray[np.int64]


def latest(table: pa.Table) -> pa.Table:
    """Returns one row per key: ok before failed, then the latest; `table` has ORDER at least. By time and key."""
    return table.take(pa.array(winners(table)))


def winners(table: pa.Table, last: Numbers | None = None) -> Numbers:
    """Returns the positions of the rows of `latest` in a `table`; if all else is equal, the larger number in `last`
    `[rows]` wins."""
    keys = [_ranks(table[name]) for name in KEY]
    finished = pc.fill_null(table["finished_at"].cast(pa.int64()), 0).to_numpy()
    best = [_ranks(table["status"]), finished, _ranks(table["run_id"])]  # "ok" > "failed"
    if last is not None:
        best.append(last)
    rows = np.lexsort((*(-column for column in reversed(best)), *reversed(keys)))
    if len(rows) > 1:
        rows = rows[np.concatenate(([True], np.logical_or.reduce([np.diff(column[rows]) != 0 for column in keys])))]
    return np.asarray(rows[np.argsort(finished[rows], kind="stable")])  # stable: by key within one time


def split_winners(tables: Sequence[pa.Table], ages: Sequence[int] | None = None) -> list[NDArray[np.bool_]]:
    """Marks for each table the rows that win among those of all tables; on a tie, the larger number in `ages` wins."""
    if not tables:
        return []
    ends = np.cumsum([0, *map(len, tables)])
    last = None if ages is None else np.repeat(np.array(ages, np.int64), np.diff(ends))
    wins = np.zeros(ends[-1], np.bool_)
    wins[winners(pa.concat_tables(tables), last)] = True
    return np.split(wins, ends[1:-1])


def shared_rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yields the rows of a table as tuples in which equal texts are one object, as a million rows have few texts."""
    return zip(*(_shared_values(column) for column in table.columns), strict=True)


class Words:
    """A column of few texts: the distinct texts, null last, and the number of each row's text."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        coded = coded.unify_dictionaries().combine_chunks()
        self.texts: list[str | None] = [*coded.dictionary.to_pylist(), None]
        self.codes: NDArray[np.int32] = pc.fill_null(coded.indices, len(coded.dictionary)).to_numpy()


def _shared_values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        words = Words(column)
        return [words.texts[code] for code in words.codes.tolist()]
    return list(column.to_pylist())


def _ranks(column: pa.ChunkedArray) -> Numbers:
    """Returns for each row the rank of its text among the sorted texts of the column; null is last."""
    words = Words(column)
    return np.asarray(pc.rank(pa.array(words.texts, pa.string())).cast(pa.int64()))[words.codes]
