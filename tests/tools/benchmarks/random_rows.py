"""Tables of results with random values, for tests of many rows."""

from typing import Any

import numpy as np
import pyarrow as pa

from freqbench.results import Column
from freqbench.results.schema import arrow_schema


def table(columns: tuple[Column, ...], count: int, known: dict[str, pa.Array], rng: np.random.Generator) -> pa.Table:
    """A table with what is known, and random values of the right type in all other columns."""

    def made_up(column: Column) -> Any:
        if pa.types.is_string(column.type):
            return pa.array([column.name] * count)
        if pa.types.is_boolean(column.type):
            return pa.array([False] * count)
        return pa.array(rng.integers(0, 100_000, count) if pa.types.is_integer(column.type) else rng.random(count))

    arrays = [known.get(column.name) for column in columns]
    filled = [made_up(column) if array is None else array for column, array in zip(columns, arrays, strict=True)]
    return pa.table(filled, schema=arrow_schema(columns))
