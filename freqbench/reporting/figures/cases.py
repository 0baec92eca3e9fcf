"""From all records of a report to its figures of single cases: which saved volumes they show, or why there are none."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from freqbench.core.errors import UserError
from freqbench.reporting.figures import curves, qualitative, slices, volumes
from freqbench.reporting.figures.drawings import MOST_LINES, Drawing, Material, parts
from freqbench.reporting.figures.volumes import Saved
from freqbench.reporting.prepared import white_box

NO_VOLUMES = "no volumes are saved: run the job with save_adversarial: nifti"
NO_PREDICTIONS = "its volumes have no predictions on the source's grid beside them"
MOST_COLUMNS = 6
MOST_CHANGES = 15

Rows = Sequence[Mapping[Hashable, Any]]


def attack(material: Material) -> Iterator[Drawing]:
    """Attacks as columns, masks below."""
    for dataset, model, rows in white_box(material.rows):
        case, shown = _one_case(_strongest(_saved(material, rows)), material)
        for more, some in parts(shown, MOST_COLUMNS):
            found = _read(material, some)
            target = _target(model)
            if isinstance(found, str) or not all(target in each.predictions for each in found.values()):
                yield (dataset, model, *more), found if isinstance(found, str) else NO_PREDICTIONS
                continue
            names = _class_names(material, some)
            yield (
                (dataset, model, *more),
                qualitative.attack_figure(found, target, names, f"{dataset}: {model}, case {case}"),
            )
        if not shown:
            yield (dataset, model), NO_VOLUMES


def change(material: Material) -> Iterator[Drawing]:
    """The changes of all attacks side by side."""
    for dataset, model, rows in white_box(material.rows):
        case, shown = _one_case(_saved(material, rows), material)
        for more, some in parts(shown, MOST_CHANGES):
            found = _read(material, some)
            title = f"{dataset}: {model}, case {case}"
            drawn = found if isinstance(found, str) else qualitative.change_figure(found, title)
            yield (dataset, model, *more), drawn
        if not shown:
            yield (dataset, model), NO_VOLUMES


def spectrum(material: Material) -> Iterator[Drawing]:
    """Radial spectra of the changes."""
    for dataset, model, rows in white_box(material.rows):
        case, shown = _one_case(_saved(material, rows), material)
        for more, some in parts(shown, MOST_LINES):
            spectra = {}
            for row in some:
                found = _read(material, [row])
                if isinstance(found, str):
                    yield (dataset, model, *more), found
                    break
                spectra[row["label"]] = slices.radial_spectrum(found[row["label"]].change)
            else:
                title = f"{dataset}: {model}, case {case}"
                yield (dataset, model, *more), curves.spectrum_figure(spectra, title, material.styles)
        if not shown:
            yield (dataset, model), NO_VOLUMES


def full(material: Material) -> Iterator[Drawing]:
    """One case in full: that of the largest drop of all attacks."""
    for dataset, model, rows in white_box(material.rows):
        saved = _saved(material, rows).sort_values("drop", ascending=False, kind="stable")
        if saved.empty:
            yield (dataset, model), NO_VOLUMES
            continue
        row = saved.iloc[0].to_dict()
        found = _read(material, [row])
        target = _target(model)
        if isinstance(found, str) or target not in found[row["label"]].predictions:
            yield (dataset, model), found if isinstance(found, str) else NO_PREDICTIONS
            continue
        title = f"{dataset}: {row['label']} on {model}, case {row['case_id']}"
        names = _class_names(material, [row])
        yield (dataset, model), qualitative.case_figure(found[row["label"]], target, names, title)


def robust(material: Material) -> Iterator[Drawing]:
    """Two models under one attack on one case: of all that are saved, where their drops are furthest apart."""
    own = material.rows[material.rows["is_white_box"]]
    for dataset, rows in own.groupby("dataset", observed=True):
        saved = _saved(material, rows).sort_values("drop", kind="stable")
        groups = saved.astype({"label": str, "case_id": str}).groupby(["label", "case_id"])
        pairs = groups["drop"].agg(lambda drops: drops.iloc[-1] - drops.iloc[0])[groups["source_model"].nunique() > 1]
        if pairs.dropna().empty:
            yield (str(dataset),), NO_VOLUMES if saved.empty else "no case was attacked on two models in the same way"
            continue
        label, case = pairs.index[int(np.argmax(pairs.fillna(-1)))]
        both = groups.get_group((label, case)).iloc[[-1, 0]].to_dict("records")
        found: dict[str, Saved] = {}
        for row in both:
            read = _read(material, [row])
            if isinstance(read, str):
                yield (str(dataset),), read
                break
            found[_target(row["source_model"])] = read[label]
        else:
            shapes = {each.label.shape for each in found.values()}
            if len(shapes) > 1:
                yield (str(dataset),), "the two models see volumes on different grids"
            elif all(model in each.predictions for model, each in found.items()) and len(found) == 2:
                names = _class_names(material, both)
                yield (str(dataset),), qualitative.model_figure(found, names, f"{dataset}: {label}, case {case}")
            else:
                yield (str(dataset),), NO_PREDICTIONS


def _saved(material: Material, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose volumes are saved, with their `folder`; of several seeds the first."""
    keys = ["cell_id", "case_key"]
    folders = pd.DataFrame([(*key, folder) for key, folder in material.folders.items()], columns=[*keys, "folder"])
    known = rows[rows["cell_id"].isin(folders["cell_id"])].astype(dict.fromkeys(keys, str))
    saved = known.merge(folders.astype(str), on=keys).sort_values("seed", kind="stable")
    return saved.drop_duplicates(["label", "case_key", "source_model"])


def _strongest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each attack the largest budget only."""
    highest = rows.groupby("family", observed=True)["budget"].transform("max")
    return rows[(rows["budget"] == highest) | rows["budget"].isna()]


def _one_case(rows: pd.DataFrame, material: Material) -> tuple[str, Rows]:
    """The case with the most attacks, of those that with the largest mean drop: its name, and a row an attack."""
    if rows.empty:
        return "", []
    cases = rows.groupby("case_key", observed=True)["drop"].agg(["size", "mean"])
    chosen = cases.sort_values(["size", "mean"], kind="stable").index[-1]
    found = rows[rows["case_key"] == chosen].to_dict("records")
    return str(found[0]["case_id"]), sorted(found, key=lambda row: material.labels[row["label"]])


def _read(material: Material, rows: Rows) -> dict[str, Saved] | str:
    """The volumes of one case by attack, or what is wrong with them."""
    try:
        return {str(row["label"]): volumes.read(str(material.root), row["folder"]) for row in rows}
    except (UserError, OSError) as error:
        return str(error)


def _target(model: str) -> str:
    """The name that files have of a model: tables add digits of its id to names that several have."""
    return model.partition("#")[0]


def _class_names(material: Material, rows: Rows) -> dict[int, str]:
    classes = material.classes[material.classes["cell_id"].isin([row["cell_id"] for row in rows])]
    named = classes[["class_index", "class_name"]].drop_duplicates("class_index")
    return {int(index): str(name) for index, name in named.itertuples(index=False, name=None)}
