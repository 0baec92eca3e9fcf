"""Rows as 64-bit numbers, so that the keys of a million of them are eight megabytes.

Two of a million different keys share a number with a probability of 3e-8 (n^2 / 2^65): small beside that of a broken
disk, and then a check would complain of a store that is sound, never the other way about for more than one row.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
_NULL = "\x00null"


@lru_cache(maxsize=2**20)
def text_number(text: str) -> int:
    """64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "little")


def text_numbers(texts: Iterable[str | None]) -> Numbers:
    """64 bits of each text; null is one of them."""
    return np.fromiter((text_number(_NULL if text is None else text) for text in texts), np.uint64)


def mixed(parts: Iterable[Numbers]) -> Numbers:
    """One number of several, in their order; arrays are broadcast against each other."""
    found = np.zeros(1, np.uint64)
    for part in parts:
        found = (found ^ part) * _ODD
        found = found ^ (found >> _SHIFT)
    return found


def among(numbers: Numbers, known: Numbers) -> NDArray[np.bool_]:
    """Which numbers are among others, which are sorted: for few numbers at a time, where `np.isin` would sort again."""
    if not len(known):
        return np.zeros(numbers.shape, np.bool_)
    found: NDArray[np.bool_] = known[np.searchsorted(known, numbers).clip(max=len(known) - 1)] == numbers
    return found


def row_numbers(table: pa.Table, columns: Sequence[str]) -> Numbers:
    """A number for each row of a table, of its values in some columns."""
    return mixed(map(_column, (table[name] for name in columns))) if len(table) else np.zeros(0, np.uint64)


def _column(column: pa.ChunkedArray) -> Numbers:
    kind = column.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        coded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        codes = coded.unify_dictionaries().combine_chunks()
        numbers = text_numbers([*codes.dictionary.to_pylist(), None])
        found: Numbers = numbers[pc.fill_null(codes.indices, len(numbers) - 1).to_numpy()]
        return found
    if pa.types.is_floating(kind):
        values = pc.fill_null(column, 0.0).to_numpy().view(np.uint64)
    else:
        values = pc.fill_null(column.cast(pa.int64()), 0).to_numpy().view(np.uint64)
    nulls = np.uint64(text_number(_NULL)) * pc.is_null(column).to_numpy().astype(np.uint64)
    return mixed([values, nulls])
