"""Shows what randomised smoothing certifies, on clean and on attacked volumes."""

import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import plain
from freqbench.analysis.groups import ATTACK
from freqbench.reporting.render import Section

SCORES = ("certified_share", "certified_dice", "certified_dice_bound")
MEASURED = ("l2", "certified_radius", *SCORES, *(f"{name}_clean" for name in SCORES))
COLUMNS = (*groups.SCORES, *MEASURED)

HOW = (
    "`radius` is the Euclidean norm, over all voxels and on the [0, 1] scale, of the changes of a volume that a "
    "certificate holds for; `l2` is that of the attack. Certified voxels may change beyond it, not within (but for the "
    "chance alpha of the test). `share` is the certified voxels in per cent, the others abstain; `Dice` is x100, the "
    "mean over foreground classes, to abstain never being right; `bound` is what no change within the radius takes the "
    "Dice below, whatever becomes of the voxels that abstain. Foreground DSC with its interval, and DSC, count the "
    "majority of the votes and no abstention. Certificates of the clean volume are those that speak of the attack. "
)


def certified(records: pd.DataFrame) -> list[Section]:
    """A table a dataset: a row an attack, source and smoothed target; of records with COLUMNS."""
    frame = plain(groups.scored(records, MEASURED))
    frame = frame[frame["certified_radius"].notna()]
    if frame.empty:
        text = "No target certifies anything: give a model the defence randomized_smoothing."
        return [Section("Certified", text=text)]
    return [_section(str(dataset), own) for dataset, own in frame.groupby("dataset", observed=True)]


def _section(dataset: str, frame: pd.DataFrame) -> Section:
    means = ["dsc_foreground_clean", "hd95_penalised", "dsc", *MEASURED]
    frame = frame.astype(dict.fromkeys(means, float))
    rows = groups.grouped(frame, ["source_model", "target_model", *ATTACK], "dsc_foreground", means)
    rows = groups.by_attack(groups.with_settings(rows, frame), ["target_model"])
    names = {"target_model": "model", "label": "attack", "source_model": "made on"}
    shown = rows[[*names, "cases", "seeds", "patients"]].rename(columns=names)
    shown["radius"] = [f"{radius:.3g}" for radius in rows["certified_radius"]]
    shown[["l2", "dsc_foreground_clean", "dsc_foreground"]] = rows[["l2", "dsc_foreground_clean", "dsc_foreground"]]
    shown = shown.assign(interval=groups.bounds(rows), **groups.beside(rows, "dsc"))
    for title, name in zip(("share", "Dice", "bound"), SCORES, strict=True):
        shown[f"{title}\nclean"], shown[f"{title}\nattacked"] = 100 * rows[f"{name}_clean"], 100 * rows[name]
    data = rows.drop(columns="attack").assign(dataset=dataset)
    return Section(f"{dataset}: what is certified", shown, HOW + groups.counts_text(rows), data)
