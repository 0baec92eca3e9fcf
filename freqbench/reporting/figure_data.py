"""Turns records into the small tables behind figures, in the units shown."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import LIMITS, is_minimal, is_null_row, is_white_box
from freqbench.analysis.labels import INTENSITY_PARAMETERS, families
from freqbench.analysis.statistics import mean_intervals
from freqbench.analysis.tables import case_minima, comparable, current
from freqbench.core.documents import object_of
from freqbench.core.files import storage
from freqbench.results import volumes

DISTANCES: Mapping[str, str] = {
    "ssim_body": "SSIM inside the body (%)",
    "lpips_body": "LPIPS distance inside the body",
    "l2_body": "L2 of the change inside the body (intensity)",
}
SCORES = ("dsc_foreground", "dsc_foreground_clean", "dsc", "dsc_clean")
NUMBERS = (*SCORES, "ssim_body", "lpips_body", "l2_body", "budget", "smallest_linf", "smallest_l2")
_ORDER = ["threat_model", "attack", "budget", "label"]


@dataclass(frozen=True)
class Material:
    """Input of figures: `shown_rows`, their CLASS_RECORDS, and the root of saved volumes, `OUT/volumes`, or None."""

    rows: pd.DataFrame
    classes: pd.DataFrame
    root: str | None

    @cached_property
    def places(self) -> dict[str, dict[str, int]]:
        """`places` of each column."""
        return {column: places(self.rows, column) for column in ("label", "family", "threat_model")}

    @cached_property
    def folders(self) -> Mapping[tuple[str, str], str]:
        """Folders of saved volumes, by `cell_id` and `case_key`."""
        paths = volumes.whole(self.root) if self.root else {}
        return {key: storage.join(str(self.root), folder) for key, folder in paths.items()}


def shown_rows(records: pd.DataFrame) -> pd.DataFrame:
    """Selects the rows that figures show (ok, not left out) with `family` (the label without its budget), all DSC and
    `ssim_body` x100, `drop` of foreground DSC in points, and `budget` x255 where it is an intensity."""
    frame = current(records)
    frame = frame[(frame["left_out"] == "") & (frame["status"] == "ok")]
    frame = frame.astype(dict.fromkeys(NUMBERS, float)).copy()  # else each column is a block of its own
    percent = {name: 100 * frame[name] for name in (*SCORES, "ssim_body")}
    return frame.assign(
        **percent,
        family=families(frame).astype("category"),
        drop=percent["dsc_foreground_clean"] - percent["dsc_foreground"],
        budget=frame["budget"].where(~frame["budget_name"].isin(INTENSITY_PARAMETERS), 255 * frame["budget"]),
        is_white_box=is_white_box(frame),
    )


def places(rows: pd.DataFrame, column: str) -> dict[str, int]:
    """Numbers values of `label`, `family` or `threat_model` by threat model, attack and budget, for all figures."""
    ordered = rows[[*dict.fromkeys((*_ORDER, column))]].drop_duplicates().sort_values(_ORDER, kind="stable")
    return {name: place for place, name in enumerate(ordered[column].astype(str).unique())}


def intervals(rows: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Returns mean over cases and 95 % interval over patients by group, of those with a value; `n` counts cases."""
    defined = rows[rows[column].notna()]
    cases = defined.groupby(list(by), observed=True, dropna=False)["case_key"].nunique()
    return plain(mean_intervals(defined, by, column, LIMITS.get(column)).assign(n=cases.to_numpy()))


def means(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means over cases and seeds of each attack (`label`, `family`, `threat_model`, `budget`), and `n`, their cases."""
    groups = rows.groupby(["label", "family", "threat_model", "budget"], observed=True, dropna=False, sort=False)
    table = plain(groups[list(columns)].mean().assign(n=groups["case_key"].nunique()).reset_index())
    order = places(rows, "label")
    return table.sort_values("label", key=lambda label: label.map(order), kind="stable", ignore_index=True)


def worst_cases(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns foreground DSC under the worst white-box attack on each case that all models have: `intervals` of each
    `threat_model`, `budget_name`, `budget` and `target_model`, with `clean`, the mean without attack."""
    attacked = rows[rows["is_white_box"] & (rows["budget"] > 0) & rows["dsc_foreground"].notna() & ~is_minimal(rows)]
    by = ["threat_model", "budget_name", "budget"]
    sets = attacked.assign(_score=attacked["dsc_foreground"]).groupby(by, observed=True)
    lowest = [case_minima(comparable(part), ["target_model"]) for _, part in sets]
    if not any(map(len, lowest)):
        return pd.DataFrame()
    minima = pd.concat(lowest, ignore_index=True)
    by.append("target_model")
    clean = minima.groupby(by, observed=True)["dsc_foreground_clean"].mean().rename("clean").reset_index()
    return intervals(minima, by, "dsc_foreground").merge(plain(clean), on=by)


def drops_by_distance(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop and distance, one row per attack that has both: the columns of `means` with `l2_body`; `drop` in points with
    `low` and `high` of its 95 % interval over patients; and `is_null`, true where nothing was optimised."""
    both = rows[rows["drop"].notna() & rows["l2_body"].notna()]
    drops = intervals(both, ["label"], "drop").rename(columns={"mean": "drop"})
    table = means(both, ("l2_body",)).merge(drops[["label", "drop", "low", "high"]], on="label")
    return table.assign(is_null=is_null_row(table))


def factors(rows: pd.DataFrame) -> pd.DataFrame:
    """Compares settings with one parameter changed to a common one, which has most such neighbours, null rows aside, of
    attacks in which more than one varies. By `attack`, `factor` and `value` (a number as text, else JSON): `is_common`,
    `mean` drop in points with `low` and `high` of its 95 % interval, `n` cases."""
    defined = rows[rows["drop"].notna()]
    settings = {text: object_of(text, "params") for text in defined["params"].astype(str).unique()}
    settings = {text: setting for text, setting in settings.items() if setting.get("control", "none") == "none"}

    def numbers_first(value: Any) -> tuple[bool, float, str]:
        is_number = isinstance(value, int | float)
        return not is_number, float(value) if is_number else 0.0, json.dumps(value)

    drops = intervals(defined.astype({"params": str}), ["attack", "params"], "drop").set_index("params")
    lines = []
    for attack, group in drops[drops.index.isin(list(settings))].groupby("attack", observed=True):
        of_attack = {text: settings[text] for text in group.index}
        by_factor = {text: _one_apart(of_attack, text) for text in of_attack}
        common = max(by_factor, key=lambda text: sum(map(len, by_factor[text].values())))
        for factor, others in sorted(by_factor[common].items()) if len(by_factor[common]) > 1 else ():
            for text in sorted((common, *others), key=lambda text: numbers_first(settings[text][factor])):
                value = settings[text][factor]
                words = f"{value:g}" if type(value) in (int, float) else json.dumps(value)
                lines.append((attack, factor, words, text == common, *group.loc[text, ["mean", "low", "high", "n"]]))
    return pd.DataFrame(lines, columns=["attack", "factor", "value", "is_common", "mean", "low", "high", "n"])


def _one_apart(settings: Mapping[str, Mapping[str, Any]], text: str) -> dict[str, list[str]]:
    """Groups the settings that differ from setting `text` in a single parameter by that parameter."""
    neighbours = defaultdict[str, list[str]](list)
    for other, setting in settings.items():
        if len(changed := [name for name, value in setting.items() if value != settings[text].get(name)]) == 1:
            neighbours[changed[0]].append(other)
    return neighbours


def transfers(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Returns mean drop in points of each attack that was transferred, source x target, all alike; NaN: not scored."""
    keys = ["label", "source_model", "target_model"]
    drops = rows.astype(dict.fromkeys(keys, str)).groupby(keys)["drop"].mean()
    sources, targets = (sorted(rows[name].astype(str).unique()) for name in keys[1:])
    matrices = {name: drops[name].unstack().reindex(index=sources, columns=targets) for name in places(rows, "label")}
    attacked = set(rows.loc[~rows["is_white_box"] & rows["drop"].notna(), "label"])
    return {label: matrix for label, matrix in matrices.items() if label in attacked}


def smallest_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the `size` in 1/255 of the smallest change an attack found for each patient, infinite if none: a row for
    each `target_model`, `label`, `threat_model` and `patient_id` with an attack that seeks one, as reported."""
    rows = rows[is_minimal(rows)]
    sizes = 255 * rows["smallest_linf"].astype(float).fillna(rows["smallest_l2"].astype(float)).fillna(math.inf)
    keys = ["target_model", "label", "threat_model", "patient_id"]
    table = plain(rows.assign(size=sizes).groupby(keys, observed=True, as_index=False)[["size"]].min())
    order = places(rows, "label")
    return table.sort_values(["target_model", "label"], key=lambda texts: texts.map(lambda text: order.get(text, text)))
