"""Shows which attack breaks which organ: the drop of Dice of every class under every attack."""

from typing import Any

import numpy as np
import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import class_drops, plain
from freqbench.analysis.groups import ATTACK, points
from freqbench.reporting.render import Section
from freqbench.results import KEY

GROUP = ["dataset", "target_model", *ATTACK]
HARDEST = "hit hardest"
WORTH_NAMING = 1.0
HOW = (
    "Each cell is the mean drop of the class's Dice in points (x100), clean minus attacked, of the model that was "
    "attacked (white-box); more is worse for the model. A volume whose label lacks a class drops out of that "
    "class, so the n of classes differ (the csv has each cell's n, patients and interval), and small organs lose "
    "points more easily than large ones. Attacks of different threat models are not comparable by their drop "
    "alone. `hit hardest` is empty where no class loses a point. "
)
NO_ATTACK = "No attack was scored on the model that it attacked, so there is no drop of organs to show."
NO_CLASSES = "The store has no class records, so no drop of single organs can be shown: run the job with metric dsc."
NO_RECORD = "No class record belongs to a record that is shown, so no drop of single organs can be shown."
_HEADINGS = ("attack", "threat_model", "label", HARDEST)


def organs(records: pd.DataFrame, classes: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset and model: one row per attack, one column per foreground class, after clean Dice."""
    frame = groups.scored(records, KEY)
    frame = frame[groups.is_white_box(frame)]
    columns = [*GROUP, "case_id", "patient_id", "seed"]
    joined = frame.head(0) if classes.empty else class_drops(frame, classes, columns)
    if joined.empty:
        return [Section("Organs", text=NO_ATTACK if frame.empty else NO_CLASSES if classes.empty else NO_RECORD)]
    rows = groups.with_settings(groups.grouped(joined, [*GROUP, "class_index"], "drop"), frame)
    names, clean = _names(joined), _clean(joined)
    sections: list[Section] = []
    for (dataset, model), group in rows.groupby(["dataset", "target_model"]):
        class_names = names[str(dataset)]
        group = group.assign(class_name=group["class_index"].map(class_names))
        data = group[[*GROUP, "class_index", "class_name", "cases", "seeds", "patients", "drop", "low", "high"]]
        text = ("" if sections else HOW) + groups.most(group)
        of_clean = clean[(clean["dataset"] == dataset) & (clean["target_model"] == model)]
        table = _table(group, class_names, of_clean.set_index("class_index"))
        sections.append(Section(f"{dataset}: drop of each organ of {model}", table, text, data))
    return sections


def _names(joined: pd.DataFrame) -> dict[str, dict[Any, str]]:
    """Names of each dataset's classes; the number is added where two share a name, or a column has it."""
    pairs = plain(joined[["dataset", "class_index", "class_name"]].drop_duplicates(["dataset", "class_index"]))
    pairs = pairs.sort_values("class_index")
    taken = pairs.duplicated(["dataset", "class_name"], keep=False) | pairs["class_name"].isin(_HEADINGS)
    texts = pairs["class_name"].where(~taken, pairs["class_name"] + " #" + pairs["class_index"].astype(str))
    pairs = pairs.assign(text=texts).set_index("class_index")
    return {str(dataset): group["text"].to_dict() for dataset, group in pairs.groupby("dataset")}


def _clean(joined: pd.DataFrame) -> pd.DataFrame:
    """Mean clean Dice of each class and its number of cases `n`, each case counted once."""
    keys = ["dataset", "target_model", "class_index"]
    once = plain(joined.drop_duplicates([*keys, "case_id"])[[*keys, "clean"]])
    return once.groupby(keys).agg(clean=("clean", "mean"), n=("clean", "count")).reset_index()


def _table(rows: pd.DataFrame, names: dict[int, str], clean: pd.DataFrame) -> pd.DataFrame:
    """Makes two rows about the clean volumes, then one per attack; the organ hit hardest stands last."""
    wide = rows.pivot(index=ATTACK, columns="class_index", values="drop").reindex(columns=list(names))
    wide = wide.reindex(pd.MultiIndex.from_frame(rows[ATTACK].drop_duplicates())).rename(columns=names)
    table = wide.map(points).reset_index().rename(columns={"label": "attack"})
    table[HARDEST] = [str(drops.idxmax()) if drops.max() >= WORTH_NAMING else "" for _, drops in wide.iterrows()]
    scores = {name: points(clean["clean"].get(i, np.nan)) for i, name in names.items()}
    counts = {name: str(clean["n"].get(i, 0)) for i, name in names.items()}
    blank = {"threat_model": "", HARDEST: ""}
    first = [{"attack": "(DSC clean)", **scores, **blank}, {"attack": "(n clean)", **counts, **blank}]
    return pd.concat([pd.DataFrame(first)[[*table]], table], ignore_index=True)
