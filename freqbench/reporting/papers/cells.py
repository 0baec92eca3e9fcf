"""Finds the records behind each cell of a recipe, and what they say: mean, interval, counts, or why nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.statistics import group_spreads, mean_intervals
from freqbench.analysis.strength import PLAIN
from freqbench.core.documents import object_of
from freqbench.reporting.papers.recipes import SCORES, Cell, Recipe, setting_of

NEVER = "never run"
COLUMNS = (
    *("dataset", "case_id", "patient_id", "seed", "attack", "params", "precision", "compile", "status", "error"),
    *("metrics", "null_reasons", "source_model", "source_model_id", "target_model", "target_model_id", "finished_at"),
    *SCORES,
    *(score.clean for score in SCORES.values() if score.clean),
)
"""The columns of RECORDS that a table is made of."""

_PAIR = ["_dataset", "_model"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the records say of one cell, in the table's unit.

    Attributes:
        mean: over cases and seeds that have a value; NaN where none has, and `missing` says why.
        low: of the 95 % interval, clustered by patient, and `high`; NaN with fewer than two patients.
        seed_spread: standard deviation between the seeds' means; NaN with one.
        cases: that went through, and their `patients` and `seeds`.
        undefined: values (one a case and seed) that are undefined and left out of the mean.
        failed: records without a score, and the first `error`.
        values: a row a case with a value, its mean over seeds: `case_id`, `patient_id`, `value`.
    """

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seed_spread: float = math.nan
    cases: int = 0
    patients: int = 0
    seeds: int = 0
    undefined: int = 0
    failed: int = 0
    error: str = ""
    model_id: str = ""
    precision: str = ""
    missing: str = ""
    values: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False, repr=False)


def find(recipe: Recipe, records: pd.DataFrame) -> list[Found]:
    """What is found for each of `recipe.cells`.

    White-box records only: the model that made the volume is the one that is scored. Clean scores are those of every
    record of the model, each case once, whatever attacked it. Records are those after `current(checked(...))`.
    """
    frame = _of_recipe(recipe, records)
    groups = _groups(plain(_attacked(recipe, frame)), [*_PAIR, "_setting"]) | _groups(plain(_clean_rows(frame)), _PAIR)
    picked = [_pick(cell, groups) for cell in recipe.cells]
    parts = [rows.assign(cell=i) for i, (rows, _) in enumerate(picked) if len(rows)]
    intervals = pd.DataFrame()
    if parts:
        intervals = mean_intervals(pd.concat(parts, ignore_index=True), ["cell"], "value").set_index("cell")
    return [_found(i, rows, known, intervals) for i, (rows, known) in enumerate(picked)]


def relevant(recipe: Recipe, records: pd.DataFrame) -> pd.DataFrame:
    """The rows of stored records that the table may need: of its datasets and models."""
    names = [model.name for model in recipe.models]
    is_wanted: pd.Series = records["dataset"].isin([dataset.name for dataset in recipe.datasets])
    return records[is_wanted & records["target_model"].isin(names)]


def _of_recipe(recipe: Recipe, records: pd.DataFrame) -> pd.DataFrame:
    """The rows of the recipe's datasets and models, with `_dataset` and `_model` as the jobs call them."""
    pairs = records[["target_model_id", "target_model"]].drop_duplicates()
    wanted = {model.name for model in recipe.models}
    names = {key: name.removesuffix(f"#{key[:6]}") for key, name in pairs.itertuples(index=False, name=None)}
    model = records["target_model_id"].map(names)
    is_wanted = records["dataset"].isin([dataset.name for dataset in recipe.datasets]) & model.isin(wanted)
    needed = [name for name in records.columns if name in {*COLUMNS, "left_out"}]
    return records.loc[is_wanted, needed].assign(_dataset=records["dataset"].astype(str), _model=model.astype(str))


def _attacked(recipe: Recipe, frame: pd.DataFrame) -> pd.DataFrame:
    """The white-box rows of the recipe's attacks with their `_setting`."""
    settings = {entry.setting for entry in recipe.attacks if entry.attack is not None}
    names = {str(setting).partition(" ")[0] for setting in settings}
    frame = frame[frame["attack"].isin(names)]
    frame = frame[frame["source_model_id"].astype(str) == frame["target_model_id"].astype(str)]
    number = frame.groupby(["attack", "params"], observed=True, dropna=False, sort=False).ngroup()  # few, of many rows
    first = ~number.duplicated()
    distinct = zip(frame.loc[first, "attack"], frame.loc[first, "params"], strict=True)
    settings_of = dict(zip(number[first], (setting_of(*map(str, pair)) for pair in distinct), strict=True))
    frame = frame.assign(_setting=number.map(settings_of))
    return frame[frame["_setting"].isin(settings)]


def _clean_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of each case those that differ in what they say of the clean volume: fp32 last, then the latest."""
    scores = [score.clean for score in SCORES.values() if score.clean]
    frame = frame.assign(_plain=_is_plain(frame))
    has = frame[scores].notna().to_numpy() @ (1 << np.arange(len(scores)))
    frame = frame.assign(_has=has).sort_values("_plain", kind="stable")
    return frame.drop_duplicates(["target_model_id", "case_id", "status", "left_out", "_has"], keep="last")


def _groups(frame: pd.DataFrame, by: list[str]) -> dict[tuple[str, ...], pd.DataFrame]:
    return {tuple(map(str, key)): rows for key, rows in frame.groupby(by, observed=True)}


def _pick(cell: Cell, groups: Mapping[tuple[str, ...], pd.DataFrame]) -> tuple[pd.DataFrame, Found]:
    """The cell's values (`value`, `patient_id`, `case_id`, `seed`; NaN where undefined), and what else is known."""
    pair = (cell.dataset.name, cell.model.name)
    rows = groups.get(pair if cell.is_clean else (*pair, cell.attack.setting))
    nothing = pd.DataFrame({"value": []})
    if rows is None:
        return nothing, Found(missing=NEVER)
    models = sorted(rows["target_model_id"].astype(str).unique())
    if len(models) > 1:
        ids = ", ".join(model[:6] for model in models)
        return nothing, Found(missing=f"{len(models)} models are called {cell.model.name} ({ids}): report one store")
    ok = rows[(rows["status"] == "ok") & (rows["left_out"] == "")]
    ok = _clean(ok, cell) if cell.is_clean else _one_precision(ok)
    failed = rows[rows["status"] == "failed"]
    if len(ok) and not cell.is_clean:
        failed = failed.merge(ok[[*PLAIN]].drop_duplicates())  # of the same arithmetic
    known = Found(
        cases=ok["case_id"].nunique(),
        patients=ok["patient_id"].nunique(),
        seeds=0 if cell.is_clean else ok["seed"].nunique(),
        failed=0 if cell.is_clean and len(ok) else len(failed),
        error=next((" ".join(str(text).split()) for text in failed["error"].dropna()), ""),
        model_id=models[0],
        precision=str(ok["precision"].iloc[0]) if len(ok) else "",
        missing=_why_nothing(rows, ok, cell),
    )
    score = SCORES[cell.metric.name]
    column = str(score.clean) if cell.is_clean else cell.metric.name
    values = score.factor * ok[column].astype(float).replace([np.inf, -np.inf], np.nan)
    return ok[["case_id", "patient_id", "seed"]].assign(value=values), known


def _one_precision(ok: pd.DataFrame) -> pd.DataFrame:
    """The rows of one arithmetic: the one with the most rows, fp32 where as many."""
    groups = [rows for _, rows in ok.groupby([*PLAIN], observed=True)]
    return max(groups, key=lambda rows: (len(rows), _is_plain(rows).all()), default=ok)


def _clean(ok: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """Each case once, of `_clean_rows`: with its score where some row has it."""
    has_score = ok[str(SCORES[cell.metric.name].clean)].notna()
    ordered = ok.assign(_scored=has_score).sort_values(["_scored", "_plain", "finished_at"], kind="stable")
    return ordered.drop_duplicates("case_id", keep="last")


def _is_plain(rows: pd.DataFrame) -> pd.Series:
    is_plain: pd.Series = (rows["precision"] == PLAIN["precision"]) & (rows["compile"] == PLAIN["compile"])
    return is_plain


def _why_nothing(rows: pd.DataFrame, ok: pd.DataFrame, cell: Cell) -> str:
    """Why the cell has no value though it was run; empty where it has one, or where all failed."""
    left_out = [reason for reason in rows["left_out"].unique() if reason]
    if len(ok) == 0:
        return f"left out: {left_out[0]}" if left_out else ""
    column = str(SCORES[cell.metric.name].clean) if cell.is_clean else cell.metric.name
    if ok[column].notna().any():
        return ""
    for text in ok["null_reasons"].dropna().unique():
        reason = object_of(text, "null_reasons").get(column)
        if reason:
            return f"not computed: {reason}"
    asked = {name for text in ok["metrics"].dropna().unique() for name in text.split(",")}
    metric = "lpips" if cell.metric.name.startswith("lpips") else cell.metric.name.partition("_")[0]
    return f"undefined on all {len(ok)} volumes" if metric in asked else f"{metric} was not among the job's metrics"


def _found(cell: int, rows: pd.DataFrame, known: Found, intervals: pd.DataFrame) -> Found:
    """What is known of a cell with its mean, interval and spread between seeds."""
    if cell not in intervals.index or not intervals["n"][cell]:
        return known
    spreads = group_spreads(rows.assign(cell=cell), ["cell"], "value")["between_seeds"]
    values = rows.dropna(subset="value").groupby(["case_id", "patient_id"], observed=True)["value"]
    return replace(
        known,
        mean=float(intervals["mean"][cell]),
        low=float(intervals["low"][cell]),
        high=float(intervals["high"][cell]),
        seed_spread=float(spreads.iloc[0]) if known.seeds > 1 else math.nan,
        undefined=int(rows["value"].isna().sum()),
        values=values.mean().reset_index(),
    )
