"""What the page shows of defences, certificates and corruptions: ready tables, and one chart a dataset."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from freqbench.reporting.colors import series_style
from freqbench.reporting.prepared import shown_rows
from freqbench.reporting.render import Section
from freqbench.reporting.render.columns import columns_of, one_line
from freqbench.reporting.views import natural, unasked


def tables(records: pd.DataFrame) -> list[dict[str, Any]]:
    """`{title text columns: [{heading number}] rows: [[cell, ...]]}` of each section that a report shows unasked.

    Args:
        records: after `tables.current(strength.checked(...))`, with all columns.
    """
    return [_table(section) for section in unasked(records)]


def charts(records: pd.DataFrame) -> list[dict[str, Any]]:
    """`{dataset models rows: [[group, name], ...] drops: {model: [[mean, low, high] or null, ...]} series cases}` of
    each dataset that has natural and adversarial rows to compare: the drop of DSC in points, of a kind the mean over
    severities; `series`: `{model: [colour, marker, dash]}`.

    Args:
        records: as of `tables`.
    """
    if not natural.applies(records):
        return []
    groups = shown_rows(records).groupby("dataset", observed=True)
    compared = [(str(dataset), natural.compared(rows)) for dataset, rows in groups]
    return [_chart(dataset, found) for dataset, found in compared if not isinstance(found, str)]


def _table(section: Section) -> dict[str, Any]:
    columns = columns_of(section)
    return {
        "title": section.title,
        "text": section.text,
        "columns": [{"heading": one_line(each.heading), "number": each.is_number} for each in columns],
        "rows": [list(cells) for cells in zip(*(each.cells for each in columns), strict=True)],
    }


def _chart(dataset: str, found: natural.Comparison) -> dict[str, Any]:
    columns = found.by_row[["target_model", "group", "row", "mean", "low", "high"]]
    drops = {(model, group, row): numbers for model, group, row, *numbers in columns.itertuples(index=False)}
    return {
        "dataset": dataset,
        "models": list(found.models),
        "rows": [[natural.GROUPS[group], row] for group, row in found.rows],
        "drops": {
            model: [_numbers(drops[model, *row]) if (model, *row) in drops else None for row in found.rows]
            for model in found.models
        },
        "series": {model: list(series_style(place)) for place, model in enumerate(found.models)},
        "cases": found.n,
    }


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 2) for value in values]
