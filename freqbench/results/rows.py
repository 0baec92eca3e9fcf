"""Converts rows to Arrow tables, and refuses those that do not fit the schema."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa

from freqbench.results.schema import Column, arrow_schema

_REFUSALS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)  # errors that Arrow raises on values that do not fit


def to_table(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Converts rows with exactly these columns to an Arrow table. NaN stays NaN and None becomes null.

    Raises ValueError if a column is missing, unknown, required but None, or of the wrong type, or if a time has no
    zone: a mistake of the program that made the row.
    """
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


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    names: frozenset[str]
    required: tuple[str, ...]
    whole: tuple[str, ...]
    times: tuple[str, ...]
    struct: pa.StructType
    metadata: dict[bytes, bytes]


@lru_cache
def _prepared(columns: tuple[Column, ...]) -> _Prepared:
    schema = arrow_schema(columns)
    return _Prepared(
        names=frozenset(schema.names),
        required=tuple(column.name for column in columns if column.required),
        whole=tuple(column.name for column in columns if pa.types.is_integer(column.type)),
        times=tuple(column.name for column in columns if pa.types.is_timestamp(column.type)),
        struct=pa.struct(list(schema)),
        metadata=schema.metadata,
    )


def _check(row: Mapping[str, Any], schema: _Prepared) -> None:
    """Refuses rows that Arrow would accept."""
    if row.keys() != schema.names:
        missing, unknown = sorted(schema.names - row.keys()), sorted(row.keys() - schema.names)
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


def _misfit(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], error: Exception) -> ValueError:
    """Explains Arrow's error with the column, which Arrow does not name when it converts whole rows."""
    for column in columns:
        try:
            pa.array([row[column.name] for row in rows], type=column.type)
        except _REFUSALS as refusal:
            return ValueError(f"column {column.name!r} must be {column.type}: {refusal}")
    return ValueError(str(error))
