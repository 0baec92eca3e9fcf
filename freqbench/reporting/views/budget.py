"""Shows how DSC falls with the budget, for each attack."""

import numpy as np
import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import plain
from freqbench.analysis.groups import ATTACK
from freqbench.analysis.labels import families
from freqbench.analysis.statistics import SPREADS, group_spreads
from freqbench.reporting.render import Section

CLEAN = "clean"
SCORE = "dsc_foreground"
CURVE = ["target_model", *ATTACK]
HOW = (
    "Foreground DSC x100 that is left at each budget of each attack on the model that was attacked (white-box), after "
    "the model's clean one; lower is a stronger attack. Budgets of different names are in different units and cannot "
    "be compared. Interval and SDs are of the foreground DSC: SD cases is the standard deviation between cases, SD "
    "seeds that of the table's number between seeds, empty with one seed. "
)


def budget(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset: model, attack without budget, budget, foreground DSC and interval; clean first."""
    frame = groups.scored(records)
    frame = frame[groups.is_white_box(frame)]
    if frame["budget"].isna().all():
        return [Section("Budget", text="No white-box attack with a budget was scored, so there is no curve to show.")]
    parts = [(str(dataset), group) for dataset, group in frame.groupby("dataset", observed=True)]
    return [_section(dataset, group) for dataset, group in parts if group["budget"].notna().any()]


def _section(dataset: str, frame: pd.DataFrame) -> Section:
    bounded = frame[frame["budget"].notna()]
    rows = groups.with_settings(_scores(bounded, CURVE), bounded)
    rows = rows.assign(family=families(rows), budget_text=groups.budget_texts(rows).astype(object))
    rows = rows.sort_values(["target_model", "threat_model", "family", "budget"], kind="stable")
    rows = pd.concat([_clean(frame), rows]).sort_values("target_model", kind="stable", ignore_index=True)
    text = HOW + groups.counts_text(rows)
    without = frame.loc[frame["budget"].isna(), "label"].astype(object).unique()
    if len(without):
        text += f" Without a budget, so not here: {', '.join(sorted(without))}."
    counts = ["cases", "seeds", "patients"]
    columns = ["target_model", "family", "label", "threat_model", "budget_name", "budget", *counts]
    data = rows.assign(dataset=dataset)
    data = data[["dataset", *columns, SCORE, "low", "high", *SPREADS, "hd95_penalised", "dsc"]]
    names = {"target_model": "model", "family": "attack", "budget_name": "budget", "budget_text": "value"}
    table = rows[["target_model", "family", "threat_model", "budget_name", "budget_text", *counts, SCORE]]
    table = table.rename(columns=names).assign(interval=groups.bounds(rows))
    table[["SD cases", "SD seeds"]] = rows[SPREADS]
    return Section(f"{dataset}: DSC against the budget", table.assign(**groups.beside(rows, "dsc")), text, data)


def _scores(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    rows = groups.grouped(frame, by, SCORE, ["hd95_penalised", "dsc"])
    return rows.merge(plain(group_spreads(frame, by, SCORE)), on=by)


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per model: each case once, whatever attacked it."""
    cases = frame.drop_duplicates(["target_model", "case_id"]).assign(seed=0, hd95_penalised=np.nan)
    cases = cases.assign(dsc_foreground=cases["dsc_foreground_clean"], dsc=cases["clean"])
    rows = _scores(cases, ["target_model"])
    return rows.assign(family=CLEAN, label=CLEAN, threat_model="", budget_name="", budget_text="", seeds=1)
