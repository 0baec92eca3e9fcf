"""The numbers that the papers print, as package data: `recipes/papers.csv`, 400 of them."""

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

PATH = Path(__file__).parent / "recipes" / "papers.csv"

Place = tuple[str, str, str, str, str, str, str, str]
"""source, table, dataset, model, training, attack, params, metric: as in the file's columns."""


@lru_cache
def published() -> Mapping[Place, tuple[str, str]]:
    """Each number's place to its text, with the digits as printed, and the note beside it."""
    with PATH.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        (
            row["source"],
            row["table"],
            row["dataset"],
            row["model"],
            row["training"],
            row["attack"],
            row["params"],
            row["metric"],
        ): (row["value"], row["note"])
        for row in rows
    }


def decimals(text: str) -> int:
    """Digits behind the point of a printed number.

    >>> decimals("7.897"), decimals("62.7"), decimals("14")
    (3, 1, 0)
    """
    return len(text.partition(".")[2])
