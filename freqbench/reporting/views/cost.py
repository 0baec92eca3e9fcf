"""Shows the cost of an attack, and the cost of its drop."""

import numpy as np
import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.groups import ATTACK
from freqbench.reporting.render import Section

SPENT = {
    "attack_seconds": "seconds",
    "num_forwards": "forwards",
    "num_backwards": "backwards",
    "peak_memory_bytes": "memory",
}
PLACES = ("device", "window_batch")
GIB = 2**30
HOW = (
    "Means a volume: seconds to make it, forward and backward passes of the attacked model, peak memory (of the "
    "device, or of the process on a CPU), the drop of foreground DSC in points (white-box), and that drop per hundred "
    "passes. Passes compare between machines, seconds and memory only within one device and one number of windows at "
    "once. A drop a pass says what is cheap, not what is strong, and is empty for attacks without a pass. "
)


def cost(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset, one row per attacked model, device, number of windows at once and attack."""
    frame = groups.scored(records, [*SPENT, *PLACES])
    frame = frame[groups.is_white_box(frame)]
    if frame.empty:
        text = "No attack was scored on the model that it attacked, so there is no drop to pay for."
        return [Section("Cost", text=text)]
    frame = frame.astype(dict.fromkeys(SPENT, float)).rename(columns=SPENT)
    frame["memory"] /= GIB
    return [_section(str(dataset), group) for dataset, group in frame.groupby("dataset", observed=True)]


def _section(dataset: str, frame: pd.DataFrame) -> Section:
    means = [*SPENT.values(), "hd95_penalised", "drop"]
    rows = groups.grouped(frame, ["source_model", *PLACES, *ATTACK], "dsc_foreground_drop", means)
    rows = groups.with_settings(rows, frame)
    passes = (rows["forwards"] + rows["backwards"]).replace(0, np.nan)
    rows["drop_per_100"] = 100 * rows["dsc_foreground_drop"] / passes
    missing = [name for name in SPENT.values() if rows[name].isna().any()]
    text = HOW + groups.counts_text(rows)
    if missing:
        text += f" Empty where the records do not hold them: {', '.join(missing)}."
    names = {"source_model": "model", "label": "attack", "memory": "GiB"}
    plain = ["threat_model", "cases", "seeds", "patients", "seconds", "forwards", "backwards"]
    table = rows[["source_model", "label", *plain, "memory", "dsc_foreground_drop"]].rename(columns=names)
    table["interval"] = groups.bounds(rows)
    # Three significant digits, as a drop per pass can be a hundredth of a point.
    table["drop per 100 passes"] = ["" if np.isnan(value) else f"{value:.3g}" for value in rows["drop_per_100"]]
    table = table.assign(**groups.beside(rows), dsc_drop=rows["drop"])
    for name, column in zip(("device", "windows at once"), PLACES, strict=True):
        if rows[column].nunique(dropna=False) > 1:
            table.insert(1, name, rows[column])
    data = rows.drop(columns=["attack", "budget_name", "budget"]).assign(dataset=dataset)
    return Section(f"{dataset}: what attacks cost", table, text, data)
