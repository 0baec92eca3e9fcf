"""Shows how small a change suffices: the sizes below which patients lose half of their Dice."""

import pandas as pd

from freqbench.reporting.figure_data import NUMBERS, shown_rows, smallest_sizes
from freqbench.reporting.render import Section

COLUMNS = tuple(name for name in NUMBERS if name != "budget")
SHARES = (25, 50, 75)
SETTING = ["target_model", "label", "threat_model"]

HOW = (
    "White-box. A patient has fallen if some case has half of its clean foreground Dice or less (of attacks with "
    "`dice`, that Dice or less; of almaprox, its share of wrong voxels). `size` is that of the smallest change that "
    "an attack found, in 1/255: the largest change of a voxel in `linf-minimal`, the root mean square over the "
    "attacked voxels in `l2-minimal`, as `eps` of attacks with these norms. Below the size in the column 50 % half of "
    "the patients fall; it is empty if fewer did. Every size bounds the true one from above: a smaller change may "
    "exist that no attack found. Patients are those of the store, without an interval. "
)
NOTHING = "No attack sought a smallest change, so there is nothing to show: run fmn or ddn."


def applies(records: pd.DataFrame) -> bool:
    """True if an attack found a smallest change."""
    return bool(records[["smallest_linf", "smallest_l2"]].notna().any(axis=None))


def smallest(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset: the share of patients that fell, and the sizes that 25, 50 and 75 % need."""
    sections = []
    for dataset, rows in shown_rows(records).groupby("dataset", observed=True):
        sizes = smallest_sizes(rows[rows["is_white_box"]])
        if sizes.empty:
            continue
        table = pd.DataFrame([_line(group) for _, group in sizes.groupby(SETTING, sort=False)])
        title = f"{dataset}: smallest changes after which patients lose half of their Dice"
        sections.append(Section(title, table, HOW, sizes.assign(dataset=dataset)))
    return sections or [Section("Smallest changes", text=NOTHING)]


def _line(group: pd.DataFrame) -> dict[str, object]:
    sizes, first = group["size"].sort_values(ignore_index=True), group.iloc[0]
    needed = {share: sizes[-(-share * len(sizes) // 100) - 1] for share in SHARES}
    return {
        "model": first["target_model"],
        "attack": first["label"],
        "threat_model": first["threat_model"],
        "patients": len(sizes),
        "fallen\n%": 100 * float((sizes < float("inf")).mean()),
        **{f"size\n{share} %": size if size < float("inf") else None for share, size in needed.items()},
    }
