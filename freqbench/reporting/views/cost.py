"""What an attack costs, and what its drop costs."""

import numpy as np
import pandas as pd

from freqbench.analysis.groups import (
    ATTACK,
    COUNTS,
    beside,
    bounds,
    grouped,
    is_white_box,
    one_patient_note,
    scored,
    with_settings,
)
from freqbench.reporting.render import Section

GIB = 2**30
HOW = (
    "Means a volume: seconds to make it, forward and backward passes of the attacked model, peak memory (of the "
    "device, or of the process on a CPU), the drop of foreground DSC in points (white-box), and that drop per hundred "
    "passes. Passes compare between machines, seconds and memory only within one device and one number of windows at "
    "once. A drop a pass says what is cheap, not what is strong, and is empty for attacks without a pass. "
)


def cost(records: pd.DataFrame) -> list[Section]:
    """A table a dataset: a row an attacked model, device, windows at once and attack.

    Args:
        records: after `tables.current(strength.checked(...))`, with the columns of passes, seconds, memory and device.
    """
    frame = scored(
        records, ["attack_seconds", "num_forwards", "num_backwards", "peak_memory_bytes", "device", "window_batch"]
    )
    frame = frame[is_white_box(frame)]
    if frame.empty:
        return [
            Section("Cost", text="No attack was scored on the model that it attacked, so there is no drop to pay for.")
        ]
    numbers = {
        "seconds": frame["attack_seconds"],
        "forwards": frame["num_forwards"],
        "backwards": frame["num_backwards"],
        "memory": frame["peak_memory_bytes"],
    }
    frame = frame.assign(**{name: values.astype(float) for name, values in numbers.items()})
    frame["memory"] /= GIB
    by = ["source_model", "device", "window_batch", *ATTACK]
    sections = []
    for dataset, own in frame.groupby("dataset", observed=True):
        rows = with_settings(grouped(own, by, "dsc_foreground_drop", [*numbers, "hd95_penalised", "drop"]), own)
        passes = rows["forwards"] + rows["backwards"]
        rows["drop_per_100"] = np.where(
            passes > 0, 100 * rows["dsc_foreground_drop"] / passes.where(passes > 0), np.nan
        )
        missing = [name for name in numbers if rows[name].isna().any()]
        text = HOW + COUNTS + one_patient_note(rows)
        if missing:
            text += f" Empty where the records do not hold them: {', '.join(missing)}."
        data = rows.drop(columns=["attack", "budget_name", "budget"]).assign(dataset=dataset)
        sections.append(Section(f"{dataset}: what attacks cost", _table(rows), text, data))
    return sections


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame(
        {
            "model": rows["source_model"],
            "attack": rows["label"],
            "threat_model": rows["threat_model"],
            "cases": rows["cases"],
            "seeds": rows["seeds"],
            "patients": rows["patients"],
            "seconds": rows["seconds"],
            "forwards": rows["forwards"],
            "backwards": rows["backwards"],
            "GiB": rows["memory"],
            "dsc_foreground_drop": rows["dsc_foreground_drop"],
            "interval": bounds(rows),
            "drop per 100 passes": [_small(value) for value in rows["drop_per_100"]],
            **beside(rows),
            "dsc_drop": rows["drop"],
        }
    )
    several = {"device": rows["device"], "windows at once": rows["window_batch"]}
    for name, values in several.items():
        if values.nunique(dropna=False) > 1:
            shown.insert(1, name, values)
    return shown


def _small(value: float) -> str:
    """Three digits that count, as a drop a pass can be a hundredth of a point."""
    return "" if np.isnan(value) else f"{value:.3g}"
