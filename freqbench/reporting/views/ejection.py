"""Shows whose heart an attack makes look weak, or well, by ejection fractions of the left ventricle from class records:
EF = 100 (V_ED - V_ES) / V_ED in percent, with V the volume of its cavity in the case (ED, ES) whose label map has most
and least of it. Below 50 % it is reduced: Bozkurt et al., Journal of Cardiac Failure 27(4), 2021."""

from itertools import starmap

import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import joined_classes, plain
from freqbench.reporting.render import Section
from freqbench.results import KEY

VENTRICLE = ("left ventricle", "left ventricular cavity", "lv")
REDUCED = 50.0
SET = ["dataset", "target_model", "threat_model", "budget_name", "budget", "is_null"]  # network and bounded changes
VOXELS = {"label_voxels": "true", "pred_voxels_clean": "clean", "pred_voxels": "attacked"}
_VOLUMES = [*VOXELS.values()]
_BEAT = [*SET, "label", "seed", "patient_id"]
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
    """Makes one table per dataset of `records` and their `classes` (CLASS_RECORDS): a row per network and set, null
    rows after attacks; its csv has every patient."""
    frame = groups.select_scored(records, KEY)
    if (made := fractions(frame[groups.is_white_box(frame)], classes)).empty:
        return [Section("Ejection fraction", text=NOTHING)]
    return list(starmap(ejection_section, groups.by_dataset(furthest(made))))


def ejection_section(dataset: str, rows: pd.DataFrame) -> Section:
    """Makes the table of the rows of `furthest` of one dataset."""
    each = rows.assign(case_id=rows["patient_id"], budget_text=groups.budget_texts(rows).astype(object))
    lines = groups.group_means(each, [*SET, "budget_text"], "moved", [*MEANS])
    of_set = each.groupby([*SET, "budget_text"], dropna=False)
    lost = of_set["attacked"].agg(lambda left: left.isna().sum())
    lines = lines.assign(
        low=lines["low"].clip(lower=0),  # `moved` is a size
        patients=of_set["patient_id"].nunique().to_numpy(),
        turned=of_set["turned"].sum().to_numpy(),
        lost=lost.to_numpy(),
    )
    lines = lines.sort_values(["target_model", "is_null", "threat_model", "budget"], ignore_index=True)
    texts = lines["budget_text"]
    budgets = lines["budget_name"].fillna("") + "=" + texts
    lines = lines.assign(
        budget=budgets.where(texts != "", ""),
        change=lines["is_null"].map({True: "null row", False: "attack"}),
        interval=groups.bounds(lines),
    )
    shown = ["target_model", "threat_model", "budget", "change", "patients", *MEANS, "moved", "interval", "turned"]
    table = lines[[*shown, "lost"]].rename(columns={"target_model": "model", "lost": "no EF", **MEANS})
    return Section(f"{dataset}: ejection fraction", table, HOW, rows)


def fractions(records: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Returns EF in percent of each attack on each patient: `_BEAT`, and EF of the label map (`true`), of the `clean`
    and the `attacked` prediction, NaN where one has no ventricle at end-diastole. Patients need two cases, whose voxels
    are of one size: of one acquisition, or of one spacing. The `records` are white-box rows with IDENTITY of `groups`,
    or `figure_data.shown_rows`; `classes` (CLASS_RECORDS) are theirs, or more."""
    cavity = classes[classes["class_name"].astype(str).str.lower().isin(VENTRICLE)]
    rows = plain(joined_classes(records.assign(is_null=groups.is_undirected(records)), cavity, [*_BEAT, "case_id"]))
    rows = rows.astype(dict.fromkeys(VOXELS, float)).rename(columns=VOXELS)
    frames = rows.sort_values("true", kind="stable").groupby(_BEAT, dropna=False)
    systole = frames[_VOLUMES].first()
    diastole = frames[_VOLUMES].last()
    made = 100 * (1 - systole / diastole.where(diastole > 0))
    return made[frames["case_id"].nunique() > 1].dropna(subset="true").reset_index()


def furthest(made: pd.DataFrame) -> pd.DataFrame:
    """Selects of `made`, as of `fractions`, the attack of each set that does most to a patient's clean EF: first what
    `turned` it to the other side of REDUCED, or undefined, then `moved` it by most points, NaN (undefined) being
    most."""
    made = made.dropna(subset="clean")
    moved = (made["attacked"] - made["clean"]).abs()
    made = made.assign(moved=moved, turned=((made["attacked"] < REDUCED) != (made["clean"] < REDUCED)) | moved.isna())
    ordered = made.sort_values(["turned", "moved"], kind="stable", ascending=False, na_position="first")
    return ordered.drop_duplicates([*SET, "patient_id"]).sort_values([*SET, "patient_id"], ignore_index=True)
