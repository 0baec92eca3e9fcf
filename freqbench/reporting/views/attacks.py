"""Shows one row per attack: at each of its budgets, with its cost, in clinical metrics, and by the organ it breaks."""

from typing import Any

import numpy as np
import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import added_scores, added_texts, class_drops, plain
from freqbench.analysis.groups import ATTACK
from freqbench.analysis.labels import families
from freqbench.analysis.scores import SCORES
from freqbench.analysis.statistics import SPREADS, group_spreads
from freqbench.analysis.tables import ADDED, CLEAN
from freqbench.core.measures import METRICS
from freqbench.reporting.render import Section
from freqbench.results import KEY

SCORE = "dsc_foreground"
CURVE = ["target_model", *ATTACK]
HOW_BUDGET = (
    "Foreground DSC x100 that is left at each budget of each attack on the model that was attacked (white-box), after "
    "the model's clean one; lower is a stronger attack. Budgets of different names are in different units and cannot "
    "be compared. Interval and SDs are of the foreground DSC: SD cases is the standard deviation between cases, SD "
    "seeds that of the table's number between seeds, empty with one seed. "
)
SPENT = {
    **{"attack_seconds": "seconds", "num_forwards": "forwards", "num_backwards": "backwards"},
    "peak_memory_bytes": "memory",
}
PLACES = ("device", "window_batch")
GIB = 2**30
HOW_COST = (
    "Means a volume: seconds to make it, forward and backward passes of the attacked model, peak memory (of the "
    "device, or of the process on a CPU), the drop of foreground DSC in points (white-box), and that drop per hundred "
    "passes. Passes compare between machines, seconds and memory only within one device and one number of windows at "
    "once. A drop a pass says what is cheap, not what is strong, and is empty for attacks without a pass. "
)
MEASURES = tuple(  # of predictions, the clean one's too, beside Dice and HD95
    each.name for metric in METRICS.values() if not metric.has_background for each in metric.numbers if each.agrees[1:]
)
ADDED_COLUMNS = ("metrics", "added_metrics")
CLINICAL = (*MEASURES, *(f"{name}_clean" for name in MEASURES))
FINE = {score.source for score in SCORES if score.scale == 1 and score.digits > 1}  # shown with two digits
HOW_CLINICAL = (
    "Means over foreground classes that the label has (of BraTS' scores: all), then over cases and seeds "
    "(white-box); the row `clean` is of the clean volumes. Dice, NSD, component F1, ECE and wrong confidence are "
    "x100; ECE and wrong confidence are of all voxels. NSD has each organ's own tolerance (`nsd_tolerance_mm` of the "
    "class records). Components, tunnels and cavities are too many or too few against the label."
)
OF_MODEL = ["dataset", "target_model", *ATTACK]
HARDEST = "hit hardest"
WORTH_NAMING = 1.0
HOW_ORGANS = (
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


def budget(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset: model, attack without budget, budget, foreground DSC and interval; clean first."""
    frame = groups.select_scored(records)
    if (frame := frame[groups.is_white_box(frame)])["budget"].isna().all():
        return [Section("Budget", text="No white-box attack with a budget was scored, so there is no curve to show.")]
    parts = [(str(dataset), group) for dataset, group in frame.groupby("dataset", observed=True)]
    return [_budgets(dataset, group) for dataset, group in parts if group["budget"].notna().any()]


def _budgets(dataset: str, frame: pd.DataFrame) -> Section:
    bounded = frame[frame["budget"].notna()]
    rows = groups.add_settings(_scores(bounded, CURVE), bounded)
    rows = rows.assign(family=families(rows), budget_text=groups.budget_texts(rows).astype(object))
    rows = rows.sort_values(["target_model", "threat_model", "family", "budget"], kind="stable")
    rows = pd.concat([_clean(frame), rows]).sort_values("target_model", kind="stable", ignore_index=True)
    text = HOW_BUDGET + groups.counts_text(rows)
    if len(without := frame.loc[frame["budget"].isna(), "label"].astype(object).unique()):
        text += f" Without a budget, so not here: {', '.join(sorted(without))}."
    counts = ["cases", "seeds", "patients"]
    columns = ["target_model", "family", "label", "threat_model", "budget_name", "budget", *counts]
    data = rows.assign(dataset=dataset)
    data = data[["dataset", *columns, SCORE, "low", "high", *SPREADS, "hd95_penalised", "dsc"]]
    names = {"target_model": "model", "family": "attack", "budget_name": "budget", "budget_text": "value"}
    table = rows[["target_model", "family", "threat_model", "budget_name", "budget_text", *counts, SCORE]]
    table = table.rename(columns=names).assign(interval=groups.bounds(rows))
    table[["SD cases", "SD seeds"]] = rows[SPREADS]
    return Section(f"{dataset}: DSC against the budget", table.assign(**groups.side_columns(rows, "dsc")), text, data)


def _scores(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    rows = groups.group_means(frame, by, SCORE, ["hd95_penalised", "dsc"])
    return rows.merge(plain(group_spreads(frame, by, SCORE)), on=by)


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per model: each case once, whatever attacked it."""
    cases = frame.drop_duplicates(["target_model", "case_id"]).assign(seed=0, hd95_penalised=np.nan)
    cases = cases.assign(dsc_foreground=cases["dsc_foreground_clean"], dsc=cases["clean"])
    rows = _scores(cases, ["target_model"])
    return rows.assign(family=CLEAN, label=CLEAN, threat_model="", budget_name="", budget_text="", seeds=1)


def cost(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset, one row per attacked model, device, number of windows at once and attack."""
    frame = groups.select_scored(records, [*SPENT, *PLACES])
    if (frame := frame[groups.is_white_box(frame)]).empty:
        text = "No attack was scored on the model that it attacked, so there is no drop to pay for."
        return [Section("Cost", text=text)]
    frame = frame.astype(dict.fromkeys(SPENT, float)).rename(columns=SPENT)
    frame["memory"] /= GIB
    return [_costs(str(dataset), group) for dataset, group in frame.groupby("dataset", observed=True)]


def _costs(dataset: str, frame: pd.DataFrame) -> Section:
    means = [*SPENT.values(), "hd95_penalised", "drop"]
    rows = groups.group_means(frame, ["source_model", *PLACES, *ATTACK], "dsc_foreground_drop", means)
    rows = groups.add_settings(rows, frame)
    rows["drop_per_100"] = 100 * rows["dsc_foreground_drop"] / (rows["forwards"] + rows["backwards"]).replace(0, np.nan)
    missing = [name for name in SPENT.values() if rows[name].isna().any()]
    text = HOW_COST + groups.counts_text(rows)
    if missing:
        text += f" Empty where the records do not hold them: {', '.join(missing)}."
    names = {"source_model": "model", "label": "attack", "memory": "GiB"}
    counts = ["threat_model", "cases", "seeds", "patients", "seconds", "forwards", "backwards"]
    table = rows[["source_model", "label", *counts, "memory", "dsc_foreground_drop"]].rename(columns=names)
    table["interval"] = groups.bounds(rows)
    # Three significant digits, as a drop per pass can be a hundredth of a point.
    table["drop per 100 passes"] = ["" if np.isnan(value) else f"{value:.3g}" for value in rows["drop_per_100"]]
    table = table.assign(**groups.side_columns(rows), dsc_drop=rows["drop"])
    for name, column in zip(("device", "windows at once"), PLACES, strict=True):
        if rows[column].nunique(dropna=False) > 1:
            table.insert(1, name, rows[column])
    data = rows.drop(columns=["attack", "budget_name", "budget"]).assign(dataset=dataset)
    return Section(f"{dataset}: what attacks cost", table, text, data)


def clinical(records: pd.DataFrame) -> list[Section]:
    """Makes a table a dataset and attacked model: clean volumes, then attacks; metrics of other packages last."""
    frame = groups.select_scored(records, (*CLINICAL, *ADDED_COLUMNS))
    frame = frame[groups.is_white_box(frame)]
    scores = added_scores(frame).add_prefix(ADDED)
    measured = [name for name in MEASURES if frame[name].notna().any()]
    measured += [name for name in map(str, scores) if not name.endswith("_clean")]
    if not measured:
        text = "No record has one: run a job with metrics such as `[dsc, nsd, assd, volume, components, topology]`."
        return [Section("Metrics of clinical practice", text=text)]
    scales = {score.source: score.scale for score in SCORES}
    for name in CLINICAL:
        frame[name] = scales.get(name.removesuffix("_clean"), 1.0) * frame[name].astype(float)
    frame = frame.join(scores)
    return [
        _clinical(f"{dataset}: attacks on {source} in the metrics of clinical practice", group, measured)
        for (dataset, source), group in frame.groupby(["dataset", "source_model"], observed=True)
    ]


def _clinical(title: str, frame: pd.DataFrame, measured: list[str]) -> Section:
    rows = groups.add_settings(groups.group_means(frame, ATTACK, measured[0], measured[1:]), frame)
    cases = frame.drop_duplicates("case_id")
    clean = {name: cases[f"{name}_clean"].mean() for name in measured} | {"cases": len(cases)}
    listed = pd.concat([pd.DataFrame([{"label": CLEAN, "threat_model": "", **clean}]), rows], ignore_index=True)
    for name in FINE & {*measured}:
        listed[name] = [groups.points(value, 2) for value in listed[name]]
    for name in (name for name in measured if name.startswith(ADDED)):  # of any scale
        listed[name] = ["" if np.isnan(value) else f"{value:.3g}" for value in listed[name]]
    table = listed[["label", "threat_model", "cases", *measured]].rename(columns={"label": "attack"})
    data = frame[[*groups.IDENTITY, *(f"{name}{end}" for name in measured for end in ("", "_clean"))]]
    text = HOW_CLINICAL
    covered = added_texts(frame)
    text += f" Of other packages, in their own units: {', '.join(covered)}." if covered else ""
    table, data = (each.rename(columns=lambda name: name.removeprefix(ADDED)) for each in (table, data))
    return Section(title, table, text, data)


def organs(records: pd.DataFrame, classes: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset and model: one row per attack, one column per foreground class, after clean Dice."""
    frame = groups.select_scored(records, KEY)
    frame = frame[groups.is_white_box(frame)]
    columns = [*OF_MODEL, "case_id", "patient_id", "seed"]
    if (joined := frame.head(0) if classes.empty else class_drops(frame, classes, columns)).empty:
        return [Section("Organs", text=NO_ATTACK if frame.empty else NO_CLASSES if classes.empty else NO_RECORD)]
    rows = groups.add_settings(groups.group_means(joined, [*OF_MODEL, "class_index"], "drop"), frame)
    names = _class_names(joined)
    keys = ["dataset", "target_model", "class_index"]
    once = plain(joined.drop_duplicates([*keys, "case_id"])[[*keys, "clean"]])
    clean = once.groupby(keys)["clean"].agg(clean="mean", n="count").reset_index()
    sections: list[Section] = []
    for (dataset, model), group in rows.groupby(["dataset", "target_model"]):
        class_names = names[str(dataset)]
        group = group.assign(class_name=group["class_index"].map(class_names))
        data = group[[*OF_MODEL, "class_index", "class_name", "cases", "seeds", "patients", "drop", "low", "high"]]
        text = ("" if sections else HOW_ORGANS) + groups.most(group)
        of_clean = clean[(clean["dataset"] == dataset) & (clean["target_model"] == model)]
        table = _organs(group, class_names, of_clean.set_index("class_index"))
        sections.append(Section(f"{dataset}: drop of each organ of {model}", table, text, data))
    return sections


def _class_names(joined: pd.DataFrame) -> dict[str, dict[Any, str]]:
    """Names of each dataset's classes; the number is added where two share a name, or a column has it."""
    pairs = plain(joined[["dataset", "class_index", "class_name"]].drop_duplicates(["dataset", "class_index"]))
    pairs = pairs.sort_values("class_index")
    taken = pairs.duplicated(["dataset", "class_name"], keep=False) | pairs["class_name"].isin(_HEADINGS)
    texts = pairs["class_name"].where(~taken, pairs["class_name"] + " #" + pairs["class_index"].astype(str))
    pairs = pairs.assign(text=texts).set_index("class_index")
    return {str(dataset): group["text"].to_dict() for dataset, group in pairs.groupby("dataset")}


def _organs(rows: pd.DataFrame, names: dict[int, str], clean: pd.DataFrame) -> pd.DataFrame:
    """Makes two rows about the clean volumes, then one per attack; the organ hit hardest stands last."""
    wide = rows.pivot(index=ATTACK, columns="class_index", values="drop").reindex(columns=list(names))
    wide = wide.reindex(pd.MultiIndex.from_frame(rows[ATTACK].drop_duplicates())).rename(columns=names)
    table = wide.map(groups.points).reset_index().rename(columns={"label": "attack"})
    table[HARDEST] = [str(drops.idxmax()) if drops.max() >= WORTH_NAMING else "" for _, drops in wide.iterrows()]
    scores = {name: groups.points(clean["clean"].get(i, np.nan)) for i, name in names.items()}
    counts = {name: str(clean["n"].get(i, 0)) for i, name in names.items()}
    blank = {"threat_model": "", HARDEST: ""}
    first = [{"attack": "(DSC clean)", **scores, **blank}, {"attack": "(n clean)", **counts, **blank}]
    return pd.concat([pd.DataFrame(first)[[*table]], table], ignore_index=True)
