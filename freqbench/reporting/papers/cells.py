"""Finds the records behind each cell of a recipe, with mean, interval and counts, or why there is none."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import is_counted
from freqbench.analysis.labels import each_distinct
from freqbench.analysis.precision import PLAIN, is_plain
from freqbench.analysis.statistics import DICE, group_spreads, mean_intervals
from freqbench.core.documents import object_of
from freqbench.core.errors import one_line
from freqbench.reporting.papers.recipes import SCORES, Recipe, TableCell, setting_of

NEVER = "never run"
COLUMNS = (  # columns of RECORDS that a table is made of
    *("dataset", "case_id", "patient_id", "seed", "attack", "params", "precision", "compile", "status", "error"),
    *("metrics", "null_reasons", "source_model", "source_model_id", "target_model", "target_model_id", "finished_at"),
    *SCORES,
    *(score.clean for score in SCORES.values() if score.clean),
)
_PAIR = ["_dataset", "_model"]


@dataclass(kw_only=True)
class CellResult:
    """Result of one cell, in the table's unit."""

    mean: float = math.nan  # over cases and seeds that have a value; NaN where none has, and `missing` says why
    low: float = math.nan  # of the 95 % interval over patients
    high: float = math.nan
    seed_spread: float = math.nan  # standard deviation between the seeds' means
    cases: int = 0  # scored
    patients: int = 0
    seeds: int = 0
    undefined: int = 0  # values (one a case and seed) that are left out of the mean
    failed: int = 0  # failed records
    error: str = ""  # of the first failed record
    model_id: str = ""
    precision: str = ""
    missing: str = ""
    # `case_id`, `patient_id` and `value` of each case with a value, its mean over seeds
    values: pd.DataFrame = field(default_factory=pd.DataFrame)


def find(recipe: Recipe, records: pd.DataFrame) -> list[CellResult]:
    """Computes the result of each of `recipe.cells` from white-box records after `current`. Clean scores are those of
    every record of the model, each case once, whatever attacked it."""
    pairs = records[["target_model_id", "target_model"]].drop_duplicates()
    names = {key: name.removesuffix(f"#{key[:6]}") for key, name in pairs.itertuples(index=False, name=None)}
    frame = records[[name for name in records.columns if name in {*COLUMNS, "left_out"}]]
    model = records["target_model_id"].map(names).astype(str)  # its name in jobs
    frame = frame.assign(_dataset=records["dataset"].astype(str).replace(recipe.dataset_of), _model=model)
    groups = _groups(plain(_attacked(recipe, frame)), [*_PAIR, "_setting"]) | _groups(plain(_clean_rows(frame)), _PAIR)
    cells = recipe.cells  # made anew each time
    results = [_pick(cell, groups) for cell in cells]
    values = pd.concat([result.values.assign(cell=i) for i, result in enumerate(results)], ignore_index=True)
    if len(values):
        of_share = values["cell"].map(lambda i: SCORES[cells[i].metric.name].factor == 100)
        _add_means(results, values, of_share)
    return results


def _add_means(results: Sequence[CellResult], values: pd.DataFrame, of_share: pd.Series) -> None:
    """Sets the means of results from values by `cell`, their place; those `of_share` lie in [0, 100]."""
    spreads = group_spreads(values, ["cell"], "value").set_index("cell")["between_seeds"]
    cases = values.dropna(subset="value").groupby(["cell", "case_id", "patient_id"])["value"].mean().reset_index()
    of_cell = dict(iter(cases.groupby("cell")))
    parts = [mean_intervals(own, ["cell"], "value", DICE if share else None) for share, own in values.groupby(of_share)]
    for row in pd.concat(parts).query("n > 0").to_dict("records"):
        cell = row["cell"]
        result = results[cell]
        result.mean = row["mean"]
        result.low = row["low"]
        result.high = row["high"]
        result.seed_spread = float(spreads[cell]) if result.seeds > 1 else math.nan
        result.undefined = int(result.values["value"].isna().sum())
        result.values = of_cell[cell].drop(columns="cell")


def relevant(recipe: Recipe, records: pd.DataFrame) -> pd.DataFrame:
    """Selects the stored records of the datasets, and their parts, and the models of a table's `recipe`."""
    names = [model.name for model in recipe.models]
    is_wanted: pd.Series = records["dataset"].isin([*recipe.dataset_of])
    return records[is_wanted & records["target_model"].isin(names)]


def _attacked(recipe: Recipe, frame: pd.DataFrame) -> pd.DataFrame:
    """Selects the white-box rows of the recipe's attacks and adds their `_setting`."""
    settings = {entry.setting for entry in recipe.attacks if entry.attack is not None}
    frame = frame[frame["attack"].isin({str(setting).partition(" ")[0] for setting in settings})]
    frame = frame[frame["source_model_id"].astype(str) == frame["target_model_id"].astype(str)]

    def texts(distinct: pd.DataFrame) -> list[str]:
        return [setting_of(str(attack), str(params)) for attack, params in distinct.itertuples(index=False, name=None)]

    frame = frame.assign(_setting=each_distinct(frame, ["attack", "params"], texts))
    return frame[frame["_setting"].isin(settings)]


def _clean_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Keeps of each case the rows that differ in facts about the clean volume, ordered: fp32 last, then the latest."""
    scores = [score.clean for score in SCORES.values() if score.clean]
    frame = frame.assign(_plain=is_plain(frame))
    has = frame[scores].notna().to_numpy() @ (1 << np.arange(len(scores)))
    frame = frame.assign(_has=has).sort_values("_plain", kind="stable")
    return frame.drop_duplicates(["target_model_id", "case_id", "status", "left_out", "_has"], keep="last")


def _groups(frame: pd.DataFrame, by: list[str]) -> dict[tuple[str, ...], pd.DataFrame]:
    return {tuple(map(str, key)): rows for key, rows in frame.groupby(by, observed=True)}


def _pick(cell: TableCell, groups: Mapping[tuple[str, ...], pd.DataFrame]) -> CellResult:
    """Counts the cell's records; `values` has also their `seed`, and NaN where undefined."""
    pair = (cell.dataset.name, cell.model.name)
    if (rows := groups.get(pair if cell.is_clean else (*pair, cell.attack.setting))) is None:
        return CellResult(missing=NEVER)
    if len(models := sorted(rows["target_model_id"].astype(str).unique())) > 1:
        ids = ", ".join(model[:6] for model in models)
        return CellResult(missing=f"{len(models)} models are called {cell.model.name} ({ids}): report one store")
    ok = _counted_rows(rows[is_counted(rows)], cell)
    failed = rows[rows["status"] == "failed"]
    seeds = 0
    if not cell.is_clean:
        seeds = ok["seed"].nunique()
        if len(failed) and len(ok):
            failed = failed.merge(ok[[*PLAIN]].drop_duplicates())  # of the same arithmetic
    error = next((one_line(text) for text in failed["error"].dropna()), "")
    values = SCORES[cell.metric.name].factor * ok[cell.column].astype(float).replace([np.inf, -np.inf], np.nan)
    result = CellResult(
        cases=ok["case_id"].nunique(),
        patients=ok["patient_id"].nunique(),
        seeds=seeds,
        failed=len(failed),
        error=error,
        model_id=models[0],
        missing=_why_nothing(rows, ok, cell),
        values=ok[["case_id", "patient_id", "seed"]].assign(value=values),
    )
    if len(ok):
        result.precision = str(ok["precision"].iloc[0])
        result.failed = 0 if cell.is_clean else len(failed)
    return result


def _counted_rows(ok: pd.DataFrame, cell: TableCell) -> pd.DataFrame:
    """Selects of the rows of a cell those that its mean is of."""
    if cell.is_clean:  # each case once: the row that has the score if there is one
        ordered = ok.assign(_scored=ok[cell.column].notna()).sort_values(["_scored", "_plain", "finished_at"])
        return ordered.drop_duplicates("case_id", keep="last")
    of_precision = [part for _, part in ok.groupby([*PLAIN], observed=True)]  # one arithmetic: that of the most rows
    return max(of_precision, key=lambda part: (len(part), is_plain(part).all()), default=ok)  # fp32 among equals


def _why_nothing(rows: pd.DataFrame, ok: pd.DataFrame, cell: TableCell) -> str:
    """Reason why a cell that was run has no value; empty where it has one, or where all failed."""
    left_out = [reason for reason in rows["left_out"].unique() if reason]
    if len(ok) == 0:
        return f"left out: {left_out[0]}" if left_out else ""
    if ok[cell.column].notna().any():
        return ""
    for text in ok["null_reasons"].dropna().unique():
        if reason := object_of(text, "null_reasons").get(cell.column):
            return f"not computed: {reason}"
    asked = ",".join(ok["metrics"].dropna().unique()).split(",")
    metric = "lpips" if cell.metric.name.startswith("lpips") else cell.metric.name.partition("_")[0]
    return f"undefined on all {len(ok)} volumes" if metric in asked else f"{metric} was not among the job's metrics"
