"""How DSC falls with the budget, for each attack."""

import numpy as np
import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import (
    ATTACK,
    COUNTS,
    beside,
    bounds,
    budget_texts,
    grouped,
    is_white_box,
    one_patient_note,
    scored,
    with_settings,
)
from freqbench.analysis.labels import value_text
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
    """A table a dataset: model, attack without its budget, budget, foreground DSC and its interval; clean first.

    Args:
        records: after `tables.current(strength.checked(...))`.
    """
    frame = scored(records)
    frame = frame[is_white_box(frame)]
    bounded = frame[frame["budget"].notna()]
    if bounded.empty:
        return [Section("Budget", text="No white-box attack with a budget was scored, so there is no curve to show.")]
    sections = []
    for dataset, own in bounded.groupby("dataset", observed=True):
        rows = grouped(own, CURVE, SCORE, ["hd95_penalised", "dsc"]).merge(
            plain(group_spreads(own, CURVE, SCORE)), on=CURVE
        )
        rows = with_settings(rows, own)
        rows = rows.assign(family=families(rows), budget_text=budget_texts(rows).astype(object))
        rows = rows.sort_values(["target_model", "threat_model", "family", "budget"], kind="stable")
        rows = pd.concat([_clean(frame[frame["dataset"] == dataset]), rows])
        rows = rows.sort_values("target_model", kind="stable", ignore_index=True)
        without = frame[(frame["dataset"] == dataset) & frame["budget"].isna()]["label"].astype(object).unique()
        text = HOW + COUNTS + one_patient_note(rows)
        if len(without):
            text += f" Without a budget, so not here: {', '.join(sorted(without))}."
        sections.append(Section(f"{dataset}: DSC against the budget", _table(rows), text, _data(rows, str(dataset))))
    return sections


def families(rows: pd.DataFrame) -> list[str]:
    """The labels without the budget, so that the points of one curve have one name."""
    named = zip(rows["label"], rows["attack"], rows["budget_name"], rows["budget"], strict=True)
    texts = []
    for label, attack, name, value in named:
        head = f"{attack} {name}={value_text(name, value)}"
        texts.append(f"{attack}{label.removeprefix(head)}" if label.startswith(head) else label)
    return texts


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a model: each case once, whatever attacked it."""
    cases = frame.drop_duplicates(["target_model", "case_id"])
    cases = cases.assign(dsc_foreground=cases["dsc_foreground_clean"], dsc=cases["clean"], hd95_penalised=np.nan)
    rows = grouped(cases, ["target_model"], SCORE, ["hd95_penalised", "dsc"]).merge(
        plain(group_spreads(cases.assign(seed=0), ["target_model"], SCORE)), on="target_model"
    )
    return rows.assign(family=CLEAN, label=CLEAN, threat_model="", budget_name="", budget_text="", seeds=1)


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    shown = {"target_model": "model", "family": "attack", "threat_model": "threat_model", "budget_name": "budget"}
    shown |= {"budget_text": "value", "cases": "cases", "seeds": "seeds", "patients": "patients", SCORE: SCORE}
    table = rows[list(shown)].rename(columns=shown).assign(interval=bounds(rows))
    spreads = {"SD cases": rows["between_cases"], "SD seeds": rows["between_seeds"]}
    return table.assign(**spreads, **beside(rows, "dsc"))


def _data(rows: pd.DataFrame, dataset: str) -> pd.DataFrame:
    columns = ["target_model", "family", "label", "threat_model", "budget_name", "budget", "cases", "seeds", "patients"]
    columns += [SCORE, "low", "high", *SPREADS, "hd95_penalised", "dsc"]
    return rows[columns].assign(dataset=dataset)[["dataset", *columns]]
