"""Computes ejection fractions of the left ventricle from class records: EF = 100 (V_ED - V_ES) / V_ED in percent, with
V the volume of its cavity in the case (ED, ES) whose label map has most and least of it. Below 50 % it is reduced:
Bozkurt et al., Journal of Cardiac Failure 27(4), 2021."""

import pandas as pd

from freqbench.analysis.frames import joined_classes, plain
from freqbench.analysis.groups import is_undirected

VENTRICLE = ("left ventricle", "left ventricular cavity", "lv")
REDUCED = 50.0
SET = ["dataset", "target_model", "threat_model", "budget_name", "budget", "is_null"]
"""Columns that name a network and a bounded set of changes, which attacks search or null rows draw from."""
VOXELS = {"label_voxels": "true", "pred_voxels_clean": "clean", "pred_voxels": "attacked"}
_VOLUMES = [*VOXELS.values()]
_BEAT = [*SET, "label", "seed", "patient_id"]


def fractions(records: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Returns EF in percent of each attack on each patient: `_BEAT`, and EF of the label map (`true`), of the `clean`
    and the `attacked` prediction, NaN where one has no ventricle at end-diastole. Patients need two cases, whose voxels
    are of one size: of one acquisition, or of one spacing. Records are white-box rows with IDENTITY of `groups`, or
    `figure_data.shown_rows`; classes are theirs, or more."""
    cavity = classes[classes["class_name"].astype(str).str.lower().isin(VENTRICLE)]
    rows = plain(joined_classes(records.assign(is_null=is_undirected(records)), cavity, [*_BEAT, "case_id"]))
    rows = rows.astype(dict.fromkeys(VOXELS, float)).rename(columns=VOXELS)
    frames = rows.sort_values("true", kind="stable").groupby(_BEAT, dropna=False)
    systole, diastole = frames[_VOLUMES].first(), frames[_VOLUMES].last()
    made = 100 * (1 - systole / diastole.where(diastole > 0))
    return made[frames["case_id"].nunique() > 1].dropna(subset="true").reset_index()


def furthest(made: pd.DataFrame) -> pd.DataFrame:
    """Selects of `fractions` the attack of each set that does most to a patient's clean EF: first what `turned` it to
    the other side of REDUCED, or undefined, then `moved` it by most points, NaN (undefined) being most."""
    made = made.dropna(subset="clean")
    moved = (made["attacked"] - made["clean"]).abs()
    made = made.assign(moved=moved, turned=((made["attacked"] < REDUCED) != (made["clean"] < REDUCED)) | moved.isna())
    ordered = made.sort_values(["turned", "moved"], kind="stable", ascending=False, na_position="first")
    return ordered.drop_duplicates([*SET, "patient_id"]).sort_values([*SET, "patient_id"], ignore_index=True)
