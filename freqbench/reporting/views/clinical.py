"""Shows what an attack costs in the metrics of clinical practice, as far as a job asked for them."""

import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.groups import ATTACK
from freqbench.analysis.scores import SCORES
from freqbench.analysis.tables import CLEAN
from freqbench.reporting.render import Section

MEASURES = (
    *("nsd", "assd_mm", "volume_error_ml", "volume_error_relative", "component_f1"),
    *("betti0_error", "betti1_error", "betti2_error", "ece", "ece_foreground", "wrong_confidence"),
)
COLUMNS = (*MEASURES, *(f"{name}_clean" for name in MEASURES))
FINE = frozenset({"assd_mm", "volume_error_ml"})  # shown with two digits
HOW = (
    "Means over foreground classes that the label has, then over cases and seeds (white-box); the row `clean` is of "
    "the clean volumes. NSD, component F1, ECE and wrong confidence are x100; ECE and wrong confidence are of all "
    "voxels. NSD has each organ's own tolerance (`nsd_tolerance_mm` of the class records). Components, tunnels and "
    "cavities are too many or too few against the label."
)


def clinical(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset and attacked model: the clean volumes, then one attack per row."""
    frame = groups.scored(records, COLUMNS)
    frame = frame[groups.is_white_box(frame)]
    measured = [name for name in MEASURES if frame[name].notna().any()]
    if not measured:
        text = "No record has one: run a job with metrics such as `[dsc, nsd, assd, volume, components, topology]`."
        return [Section("Metrics of clinical practice", text=text)]
    scales = {score.source: score.scale for score in SCORES}
    for name in COLUMNS:
        frame[name] = scales[name.removesuffix("_clean")] * frame[name].astype(float)
    return [
        _section(f"{dataset}: attacks on {source} in the metrics of clinical practice", group, measured)
        for (dataset, source), group in frame.groupby(["dataset", "source_model"], observed=True)
    ]


def _section(title: str, frame: pd.DataFrame, measured: list[str]) -> Section:
    rows = groups.with_settings(groups.grouped(frame, ATTACK, measured[0], measured[1:]), frame)
    cases = frame.drop_duplicates("case_id")
    clean = {name: cases[f"{name}_clean"].mean() for name in measured} | {"cases": len(cases)}
    listed = pd.concat([pd.DataFrame([{"label": CLEAN, "threat_model": "", **clean}]), rows], ignore_index=True)
    for name in FINE & {*measured}:
        listed[name] = [groups.points(value, 2) for value in listed[name]]
    table = listed[["label", "threat_model", "cases", *measured]].rename(columns={"label": "attack"})
    data = frame[[*groups.IDENTITY, *(f"{name}{end}" for name in measured for end in ("", "_clean"))]]
    return Section(title, table, HOW, data)
