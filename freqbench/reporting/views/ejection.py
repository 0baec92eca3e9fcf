"""Shows whose heart an attack makes look weak, or well: the ejection fraction of the left ventricle and its class."""

import pandas as pd

from freqbench.analysis import ejection as beats
from freqbench.analysis import groups
from freqbench.analysis.ejection import REDUCED, SET
from freqbench.reporting.render import Section
from freqbench.results import KEY

HOW = (
    "White-box. EF is the ejection fraction in percent, from the volumes of the left ventricle in two cases of a "
    "patient: the one whose label map has most of it, and the one that has least. Both are attacked. A patient is "
    f"`turned` if some attack of the set moves EF across {REDUCED:.0f} %, below which it is reduced, or leaves none. "
    "`moved` is in points: the mean over patients of the attack that does most, of those that turn first, with its "
    "interval (Student's t), without patients who are left without an EF. Clean and attacked predictions are compared; "
    "the EF of label maps stands beside. These attacks seek Dice: one that seeks volume may turn more. "
)
NOTHING = (
    "No patient has a left ventricle in two cases: run a job with the metric dsc on both ends of the beat of its "
    "patients, such as research/acdc/ejection, on a dataset with a class `left ventricle` or `LV`."
)
MEANS = {"true": "EF\nlabel", "clean": "EF\nclean", "attacked": "EF\nattacked"}


def ejection(records: pd.DataFrame, classes: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset: a row per network and set, null rows after attacks; its csv has every patient."""
    frame = groups.select_scored(records, KEY)
    if (made := beats.fractions(frame[groups.is_white_box(frame)], classes)).empty:
        return [Section("Ejection fraction", text=NOTHING)]
    return [ejection_section(str(dataset), rows) for dataset, rows in beats.furthest(made).groupby("dataset")]


def ejection_section(dataset: str, rows: pd.DataFrame) -> Section:
    """Makes the table of the rows of `furthest` of one dataset."""
    each = rows.assign(case_id=rows["patient_id"], budget_text=groups.budget_texts(rows).astype(object))
    lines = groups.group_means(each, [*SET, "budget_text"], "moved", [*MEANS])
    of_set = each.groupby([*SET, "budget_text"], dropna=False)
    lines = lines.assign(
        low=lines["low"].clip(lower=0),  # `moved` is a size
        patients=of_set["patient_id"].nunique().to_numpy(),
        turned=of_set["turned"].sum().to_numpy(),
        lost=of_set["attacked"].agg(lambda left: left.isna().sum()).to_numpy(),
    )
    lines = lines.sort_values(["target_model", "is_null", "threat_model", "budget"], ignore_index=True)
    lines = lines.assign(
        budget=(lines["budget_name"].fillna("") + "=" + lines["budget_text"]).where(lines["budget_text"] != "", ""),
        change=lines["is_null"].map({True: "null row", False: "attack"}),
        interval=groups.bounds(lines),
    )
    shown = ["target_model", "threat_model", "budget", "change", "patients", *MEANS, "moved", "interval", "turned"]
    table = lines[[*shown, "lost"]].rename(columns={"target_model": "model", "lost": "no EF", **MEANS})
    return Section(f"{dataset}: ejection fraction", table, HOW, rows)
