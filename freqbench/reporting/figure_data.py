"""Turns records into the small tables behind figures, in the units shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import LIMITS, is_counted, is_minimal, is_null_row, is_white_box
from freqbench.analysis.labels import INTENSITY_PARAMETERS, families
from freqbench.analysis.statistics import mean_intervals
from freqbench.analysis.tables import current
from freqbench.core.files import storage
from freqbench.results import volumes

SCORES = ("dsc_foreground", "dsc_foreground_clean", "dsc", "dsc_clean")
NUMBERS = (*SCORES, "l2_body", "budget", "smallest_linf", "smallest_l2")
_ORDER = ["threat_model", "attack", "budget", "label"]


@dataclass(frozen=True)
class Material:
    """Input of figures: `shown_rows`, their CLASS_RECORDS, and the root of saved volumes, `OUT/volumes`, or None."""

    rows: pd.DataFrame
    classes: pd.DataFrame
    root: str | None

    @cached_property
    def families(self) -> dict[str, int]:
        """`places` of the families."""
        return places(self.rows, "family")

    @cached_property
    def folders(self) -> Mapping[tuple[str, str], str]:
        """Folders of saved volumes, by `cell_id` and `case_key`."""
        paths = volumes.whole(self.root) if self.root else {}
        return {key: storage.join(str(self.root), folder) for key, folder in paths.items()}


def shown_rows(records: pd.DataFrame) -> pd.DataFrame:
    """Selects the rows of `records` that figures show (ok, not left out) with `family` (the label without its budget),
    all DSC x100, `drop` of foreground DSC in points, and `budget` x255 where it is an intensity. The records have the
    columns of NUMBERS, beside those that identify a row."""
    frame = current(records)
    frame = frame[is_counted(frame)]
    frame = frame.astype(dict.fromkeys(NUMBERS, float)).copy()  # else each column is a block of its own
    family = families(frame).astype("category")
    budget = frame["budget"]
    percent = {name: 100 * frame[name] for name in SCORES}
    return frame.assign(
        **percent,
        family=family,
        drop=percent["dsc_foreground_clean"] - percent["dsc_foreground"],
        budget=budget.where(~frame["budget_name"].isin(INTENSITY_PARAMETERS), 255 * budget),
        is_white_box=is_white_box(frame),
    )


def places(rows: pd.DataFrame, column: str) -> dict[str, int]:
    """Numbers the values of a `column` of `rows`, `label`, `family` or `threat_model`, by threat model, attack and
    budget, for all figures."""
    ordered = rows[[*dict.fromkeys((*_ORDER, column))]].drop_duplicates().sort_values(_ORDER, kind="stable")
    return {name: place for place, name in enumerate(ordered[column].astype(str).unique())}


def intervals(rows: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Returns the mean of a `column` over cases and its 95 % interval over patients by group, of those of the
    `shown_rows` in `rows` with a value; `n` counts cases."""
    defined = rows[rows[column].notna()]
    cases = defined.groupby(list(by), observed=True, dropna=False)["case_key"].nunique()
    return plain(mean_intervals(defined, by, column, LIMITS.get(column)).assign(n=cases.to_numpy()))


def drops_by_distance(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop and distance, one row per attack of `shown_rows` in `rows` that has both (`label`, `family`, `threat_model`,
    `budget`): `drop` in points with `low` and `high` of its 95 % interval over patients and `n`, its cases; `l2_body`,
    the mean over cases and seeds; and `is_null`, true where nothing was optimised."""
    both = rows[rows["drop"].notna() & rows["l2_body"].notna()]
    by = ["label", "family", "threat_model", "budget"]
    sizes = both.groupby(by, observed=True, dropna=False)["l2_body"].mean()
    table = intervals(both, by, "drop").rename(columns={"mean": "drop"}).assign(l2_body=sizes.to_numpy())
    order = places(rows, "label")
    table = table.sort_values("label", key=lambda labels: labels.map(order), kind="stable", ignore_index=True)
    return table.assign(is_null=is_null_row(table))


def smallest_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the `size` in 1/255 of the smallest change an attack found for each patient, infinite if none: a row for
    each `target_model`, `label`, `threat_model` and `patient_id` with an attack that seeks one, as reported. Besides
    these, `rows` have `smallest_linf` and `smallest_l2`, on the [0, 1] scale."""
    rows = rows[is_minimal(rows)]
    sizes = 255 * rows["smallest_linf"].astype(float).fillna(rows["smallest_l2"].astype(float)).fillna(math.inf)
    keys = ["target_model", "label", "threat_model", "patient_id"]
    table = plain(rows.assign(size=sizes).groupby(keys, observed=True, as_index=False)[["size"]].min())
    order = places(rows, "label")
    return table.sort_values(["target_model", "label"], key=lambda texts: texts.map(lambda text: order.get(text, text)))
