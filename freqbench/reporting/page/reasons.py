"""Why a mean is empty: what the records of a group say about it."""

import json
from typing import Any

import pandas as pd

from freqbench.core.documents import object_of

_TEXTS = ["metrics", "null_reasons"]


def group_reasons(records: pd.DataFrame, key: str, groups: int) -> dict[str, pd.Series]:
    """For each group of records, by its number, what explains its empty cells.

    Returns:
        `error` (the first one, where no record is ok), `metrics` (all that its ok records cover, separated by commas)
        and `null_reasons` (`{column: first reason}` as JSON text); None where there is none.
    """
    is_ok = records["status"] == "ok"
    has_ok = is_ok.groupby(records[key]).any()
    errors = records["error"].astype(object).groupby(records[key]).first()
    distinct = records.loc[is_ok, [key, *_TEXTS]].astype(object).drop_duplicates()
    covered: dict[int, dict[str, None]] = {}
    reasons: dict[int, dict[str, Any]] = {}
    for group, metrics, text in distinct.itertuples(index=False, name=None):
        if isinstance(metrics, str):
            covered.setdefault(group, {}).update(dict.fromkeys(metrics.split(",")))
        if isinstance(text, str):
            reasons[group] = object_of(text, "null_reasons") | reasons.get(group, {})
    numbers = range(groups)
    failed = [errors.get(number) if not has_ok.get(number, False) else None for number in numbers]
    return {
        "error": pd.Series(failed, dtype=object),
        "metrics": pd.Series([",".join(covered.get(number, {})) or None for number in numbers], dtype=object),
        "null_reasons": pd.Series(
            [json.dumps(reasons[number], sort_keys=True) if number in reasons else None for number in numbers],
            dtype=object,
        ),
    }
