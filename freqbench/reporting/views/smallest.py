"""Shows how small a change suffices: the sizes below which patients lose half of their Dice."""

import math

import pandas as pd

from freqbench.analysis import groups
from freqbench.reporting.figure_data import smallest_sizes
from freqbench.reporting.render import Section

COLUMNS = (*groups.SCORES, "smallest_linf", "smallest_l2", "eps_native")
SHARES = (25, 50, 75)
USUAL = 8  # of the usual radius, in 1/255
NATIVE = "size\n50 %\nfile's unit"
SETTING = ["target_model", "label", "threat_model"]

HOW = (
    "White-box. A patient has fallen if some case has half of its clean foreground Dice or less (of attacks with "
    "`dice`, that Dice or less; of almaprox, its share of wrong voxels). `size` is that of the smallest change that "
    "an attack found, in 1/255 of the intensities that became 0 to 1: the largest change of a voxel in `linf-minimal`, "
    "the root mean square over the attacked voxels in `l2-minimal`, as `eps` of attacks with these norms. Below the "
    "size in the column 50 % half of the patients fall; it is empty if fewer did. Every size bounds the true one from "
    "above: a smaller change may exist that no attack found. What these attacks leave of the DSC is what they were "
    "asked for, so no score ranks them. Patients are those of the store, without an interval. "
)
OF_FILES = "The file's unit is that of its intensities (HU for CT)."
NOTHING = "No attack sought a smallest change, so there is nothing to show: run fmn or ddn."


def applies(records: pd.DataFrame) -> bool:
    """True if an attack that seeks a smallest change was run, and some of its `records` are ok."""
    return bool((groups.is_minimal(records) & (records["status"] == "ok")).any())


def smallest(records: pd.DataFrame) -> list[Section]:
    """Makes a table a dataset of `records` with COLUMNS: the share of patients that fell, also by the usual radius;
    sizes for 25, 50, 75 %."""
    sections = []
    frame = groups.select_scored(records, COLUMNS[len(groups.SCORES) :])
    frame = frame.assign(step=groups.native_steps(frame))
    for dataset, rows in groups.by_dataset(frame[groups.is_white_box(frame)]):
        if (sizes := smallest_sizes(rows)).empty:
            continue
        steps = rows.groupby(["target_model", "patient_id"], observed=True)["step"].mean().rename("step").reset_index()
        sizes = sizes.merge(steps.astype({"target_model": object, "patient_id": object}))
        sizes = sizes.assign(native=sizes.pop("step") * sizes["size"])
        table = pd.DataFrame([_line(group) for _, group in sizes.groupby(SETTING, sort=False)])
        title = f"{dataset}: smallest changes after which patients lose half of their Dice"
        table, text = (table, HOW + OF_FILES) if table[NATIVE].notna().any() else (table.drop(columns=NATIVE), HOW)
        sections.append(Section(title, table, text, sizes.assign(dataset=dataset)))
    return sections or [Section("Smallest changes", text=NOTHING)]


def _line(group: pd.DataFrame) -> dict[str, object]:
    sizes, native = (group[name].sort_values().to_numpy() for name in ("size", "native"))
    first = group.iloc[0]
    place = {share: -(-share * len(sizes) // 100) - 1 for share in SHARES}
    needed = {f"size\n{share} %\n1/255": sizes[at] for share, at in place.items()} | {NATIVE: native[place[50]]}
    shares = {"fallen\n%": sizes < math.inf, f"below\n{USUAL}/255\n%": sizes <= USUAL}
    line = {"model": first["target_model"], "attack": first["label"], "threat_model": first["threat_model"]}
    line["patients"] = len(sizes)
    line |= {name: 100 * float(is_below.mean()) for name, is_below in shares.items()}
    return line | {name: size if size < math.inf else None for name, size in needed.items()}
