"""What each attack takes off, and how far it goes inside the body."""

import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.statistics import t_intervals
from freqbench.core.documents import object_of
from freqbench.reporting.prepared import means


def drops_by_distance(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop of foreground DSC and distance of each attack: a row an attack that has both.

    Args:
        rows: of `prepared.shown_rows`, of one dataset and model.

    Returns:
        `label`, `family`, `threat_model`, `budget`, `l2_body` (mean over cases and seeds), `drop` in points with `low`
        and `high` of its 95 % interval over patients (Student's t), `n`, the cases, and `is_null`: whether it is a null
        row, the same change without optimisation; ordered as the attacks are.
    """
    both = rows[rows["drop_foreground"].notna() & rows["l2_body"].notna()]
    distances = means(both, ("l2_body",))
    drops = plain(t_intervals(both, ["label"], "drop_foreground")).rename(columns={"mean": "drop"})
    table = distances.merge(drops[["label", "drop", "low", "high"]], on="label")
    params = both.drop_duplicates("label").set_index("label")["params"]
    controls = [object_of(params[label], f"{label}: params").get("control", "none") for label in table["label"]]
    return table.assign(is_null=[control != "none" for control in controls])
