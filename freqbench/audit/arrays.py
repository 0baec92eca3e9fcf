"""Turns columns of Arrow tables into arrays, and rows into hashes of 64 bits."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freqbench.results.winners import Words

Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def valid(column: pa.ChunkedArray) -> Mask:
    """Mask of the rows that are not null."""
    mask: Mask = pc.is_valid(column).to_numpy()
    return mask


def floats(column: pa.ChunkedArray) -> Floats:
    """Numbers of a column, null as NaN."""
    numbers: Floats = pc.fill_null(column.cast(pa.float64()), math.nan).to_numpy()
    return numbers


def is_ok(table: pa.Table) -> Mask:
    """Mask of the rows whose status is ok."""
    words = Words(table["status"])
    return words.mask([text == "ok" for text in words.texts])


@lru_cache(maxsize=2**20)
def _hash_text(text: str | None) -> int:
    packed = b"\x00null" if text is None else text.encode(errors="replace")
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def hash_texts(texts: Iterable[str | None]) -> Hashes:
    """Hashes each text, null being one of them."""
    return np.fromiter(map(_hash_text, texts), np.uint64)


def mixed(parts: Iterable[Hashes]) -> Hashes:
    """Combines several hashes into one, in their order; arrays are broadcast against each other."""
    hashes = np.zeros(1, np.uint64)
    for part in parts:
        hashes = (hashes ^ part) * _ODD
        hashes = hashes ^ (hashes >> _SHIFT)
    return hashes


def hash_rows(table: pa.Table, columns: Sequence[str]) -> Hashes:
    """Hashes each row's values in some columns, `[rows]`."""
    return mixed(_hash_column(table[name]) for name in columns) if len(table) else np.zeros(0, np.uint64)


def _hash_column(column: pa.ChunkedArray) -> Hashes:
    if pa.types.is_dictionary(column.type):
        words = Words(column)
        hashes: Hashes = hash_texts(words.texts)[words.codes]
        return hashes
    is_float = pa.types.is_floating(column.type)
    numbers = pc.fill_null(column, 0.0) if is_float else pc.fill_null(column.cast(pa.int64()), 0)
    nulls = np.where(valid(column), np.uint64(0), np.uint64(_hash_text(None)))
    return mixed([numbers.to_numpy().view(np.uint64), nulls])


def among(hashes: Hashes, known: Hashes) -> Mask:
    """Mask of the hashes that are among others, which are sorted: for a few at a time, as `np.isin` would sort anew."""
    mask: Mask = np.searchsorted(known, hashes) < np.searchsorted(known, hashes, "right")
    return mask
