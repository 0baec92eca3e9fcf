"""Shows how well detectors tell attacked volumes from clean ones and null rows, and what attackers who know leave."""

import math
from itertools import product, starmap

import numpy as np
import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import added_scores, plain
from freqbench.analysis.groups import ATTACK
from freqbench.analysis.statistics import auroc
from freqbench.reporting.render import Section
from freqbench.reporting.views.defences import NONE, TOLD, parse_defences

SUSPICION = ["suspicion", "suspicion_clean"]
COLUMNS = (*groups.SCORES, *TOLD, "added_metrics")
WHO = {"unaware": "volumes made on the network without the detector", "aware": "made beside it"}
KEYS = ["target_model", "defence", *ATTACK]
SET = ["target_model", "threat_model", "budget"]
SCORES = {"dsc": "DSC", "clean": "AUROC, clean", "null": "AUROC, null"}  # their headings

HOW = (
    "AUROC x100 by which the suspicion of a detector tells attacked volumes from the clean ones of all patients "
    "(`clean`), and from changes of the same set and budget without optimisation (`null`): 50 is chance, 100 tells "
    "all. `unaware`: the attack does not know the detector; `aware`: it keeps no volume that is more suspicious than "
    "its own clean one, or than half of those that the detector learned from. A detector is worth what the aware "
    "attack leaves beside the unaware one; other attacks may leave less. DSC is foreground DSC x100. Intervals of "
    "AUROC are by its variance over patients (DeLong et al., Biometrics 1988), of Student's t on the logit scale; of "
    "0 and 100 the exact one of as many patients that are all told apart, or none. "
)


def applies(records: pd.DataFrame) -> bool:
    """True if a network of the `records`, with `added_metrics`, had a detector."""
    return bool(records["added_metrics"].astype(object).str.contains('"suspicion"', regex=False).any())


def detection(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset of `records` with COLUMNS: one row per network beside a detector, and attack."""
    frame = groups.select_scored(records, ["source_model_id", "target_model_id", *TOLD, "added_metrics"])
    frame = frame.join(added_scores(frame).reindex(columns=SUSPICION))
    source, target = (parse_defences(frame, role) for role in ("source", "target"))
    is_same = (source["network"] == target["network"]) & frame["suspicion"].notna()
    aware = is_same & (source["defence"] == target["defence"]) & source["adaptive"]
    unaware = is_same & ((source["defence"] == NONE) | ~source["adaptive"])
    who = np.select([aware, unaware], ["aware", "unaware"], "")
    is_null = groups.is_null_row(frame) | frame["attack"].isin(groups.NOISE)
    frame = plain(frame).assign(who=who, defence=target["defence"], is_null=is_null)
    frame = frame[frame["who"] != ""].sort_values(["who", "label"], kind="stable")
    if frame.empty:
        return [Section("Detection", text="No network stood beside a detector: give models a `defence` that is one.")]
    return list(starmap(_section, groups.by_dataset(frame)))


def _section(dataset: str, frame: pd.DataFrame) -> Section:
    is_null = frame["is_null"]
    attacks = frame[~is_null]
    null = frame[is_null].groupby([*SET, "patient_id"])["suspicion"].mean()
    rows = attacks[KEYS].drop_duplicates()
    for who in WHO:
        part = attacks[attacks["who"] == who]
        left = groups.group_means(part, KEYS, "dsc_foreground")[[*KEYS, "dsc_foreground", "low", "high"]]
        names = {"dsc_foreground": f"{who}_dsc", "low": f"{who}_dsc_low", "high": f"{who}_dsc_high"}
        found = []
        for key, cell in part.groupby(KEYS, observed=True):
            numbers = _aurocs(cell, null.get(tuple(cell[SET].iloc[0]), pd.Series(dtype=float)))
            found.append(
                dict(zip(KEYS, key, strict=True)) | {f"{who}_{name}": value for name, value in numbers.items()}
            )
        rows = rows.merge(left.rename(columns=names), on=KEYS, how="left")
        rows = rows.merge(pd.DataFrame(found, columns=None if found else KEYS), on=KEYS, how="left")
    rows = rows.sort_values(["threat_model", "label", "target_model"], kind="stable", ignore_index=True)
    named = rows[["target_model", "defence"]].drop_duplicates().itertuples(index=False)
    text = " ".join([HOW, *(f"{model}: {defence}." for model, defence in named)])
    return Section(f"{dataset}: detection", _table(rows), text, rows.assign(dataset=dataset))


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    table = rows[["target_model", "label", "threat_model"]].rename(columns={"label": "attack", "target_model": "model"})
    for who, (name, words) in product(WHO, SCORES.items()):
        column = f"{who}_{name}"
        if column in rows:
            heading = f"{who}\n{words}"
            table[heading] = rows[column]
            table[f"{heading} interval"] = groups.bounds(rows, f"{column}_")
    return table


def _aurocs(cell: pd.DataFrame, null: pd.Series) -> dict[str, float]:
    """Tells the suspicion of attacked volumes from that of the clean ones, and from that of null rows by patient."""
    of_patients = cell.groupby("patient_id")[SUSPICION].mean()
    others = {"clean": of_patients["suspicion_clean"], "null": null.reindex(of_patients.index)}
    numbers: dict[str, float] = {}
    for name, other in others.items():
        attacked = of_patients["suspicion"][other.notna()].to_numpy()
        ends = auroc(attacked, other.dropna().to_numpy()) if len(attacked) else (math.nan,) * 3
        numbers |= zip((name, f"{name}_low", f"{name}_high"), ends, strict=True)
    return numbers
