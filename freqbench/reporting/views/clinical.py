"""Shows the attacks in the metrics of clinical practice: one row per attack, after the clean volumes."""

from itertools import chain, product

import numpy as np
import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import added_scores, added_texts
from freqbench.analysis.groups import ATTACK
from freqbench.analysis.scores import SCORES
from freqbench.analysis.tables import ADDED, CLEAN
from freqbench.core.measures import METRICS
from freqbench.reporting.render import Section

_NUMBERS = chain.from_iterable(metric.numbers for metric in METRICS.values() if not metric.has_background)
MEASURES = tuple(each.name for each in _NUMBERS if each.agrees[1:])
"""Metrics of predictions, the clean one's too, beside Dice and HD95."""
CLINICAL = (*MEASURES, *(f"{name}_clean" for name in MEASURES))
READ = (*CLINICAL, "metrics", "added_metrics")
COLUMNS = (*groups.SCORES, *READ)
FINE = {score.source for score in SCORES if score.scale == 1 and score.digits > 1}  # shown with two digits
HOW = (
    "Means over foreground classes that the label has (of BraTS' scores: all), then over cases and seeds "
    "(white-box); the row `clean` is of the clean volumes. Dice, NSD, component F1, ECE and wrong confidence are "
    "x100; ECE and wrong confidence are of all voxels. NSD has each organ's own tolerance (`nsd_tolerance_mm` of "
    "`class_records`). Components, tunnels and cavities are too many or too few against the label."
)


def clinical(records: pd.DataFrame) -> list[Section]:
    """Makes a table a dataset and attacked model of `records` with COLUMNS: clean volumes, then attacks; metrics of
    other packages last."""
    frame = groups.select_scored(records, READ)
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
    data = frame[[*groups.IDENTITY, *map("".join, product(measured, ("", "_clean")))]]
    covered = added_texts(frame)
    text = f"{HOW} Of other packages, in their own units: {', '.join(covered)}." if covered else HOW
    table, data = (each.rename(columns=lambda name: name.removeprefix(ADDED)) for each in (table, data))
    return Section(title, table, text, data)
