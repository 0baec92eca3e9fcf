"""From all records of a report to its figures of numbers: which there are, one a dataset and model, or why not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import pandas as pd
from matplotlib.figure import Figure

from freqbench.core import storage
from freqbench.reporting import prepared
from freqbench.reporting.colors import SeriesStyle, series_style
from freqbench.reporting.distances import drops_by_distance
from freqbench.reporting.figures import corruptions, curves, drops, maps
from freqbench.reporting.views.natural import compared
from freqbench.results import volumes

MOST_ROWS = 30  # attacks of one figure; more go on in a further one
MOST_PAIRS = 14
MOST_LINES = 14
MOST_MATRICES = 12

Drawing = tuple[tuple[str, ...], Figure | str]
T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """What figures are made of.

    Attributes:
        rows: of `prepared.shown_rows`.
        classes: CLASS_RECORDS of these rows; others do no harm.
        root: where saved volumes lie, `OUT/volumes`; None: nowhere.
    """

    rows: pd.DataFrame
    classes: pd.DataFrame
    root: str | None

    @cached_property
    def labels(self) -> dict[str, int]:
        """The attacks, each with its place."""
        return prepared.places(self.rows, "label")

    @cached_property
    def styles(self) -> dict[str, SeriesStyle]:
        """The attacks, each with its style."""
        return prepared.attack_styles(self.rows)

    @cached_property
    def families(self) -> dict[str, int]:
        """The attacks without their budgets, each with its place."""
        return prepared.places(self.rows, "family")

    @cached_property
    def threats(self) -> dict[str, int]:
        """The threat models, each with its place."""
        return prepared.places(self.rows, "threat_model")

    @cached_property
    def folders(self) -> Mapping[tuple[str, str], str]:
        """Of saved volumes, by `cell_id` and `case_key`."""
        found = volumes.whole(self.root) if self.root else {}
        return {key: storage.join(str(self.root), folder) for key, folder in found.items()}


def parts(items: Sequence[T], most: int) -> Iterator[tuple[tuple[str, ...], Sequence[T]]]:
    """Items that fit into one figure, with what its name says in addition: nothing for the first."""
    for start in range(0, len(items), most):
        yield ((str(start // most + 1),) if start else ()), items[start : start + most]


def budget(material: Material) -> Iterator[Drawing]:
    """DSC against budget."""
    for dataset, model, rows in prepared.white_box(material.rows):
        table = prepared.budget_curves(rows)
        if table.empty:
            yield (dataset, model), "no attack was run with several budgets"
        else:
            title = f"{dataset}: attacks on {model}"
            yield (dataset, model), curves.budget_figure(table, _clean(rows), title, material.families)


def _clean(rows: pd.DataFrame) -> float:
    return float(rows.groupby("case_key", observed=True)["dsc_clean"].first().mean())


def tradeoff(material: Material) -> Iterator[Drawing]:
    """DSC against SSIM, LPIPS and L2."""
    for dataset, model, rows in prepared.white_box(material.rows):
        table = prepared.means(rows, ("dsc", *prepared.DISTANCES))
        if table[list(prepared.DISTANCES)].isna().all(axis=None):
            yield (dataset, model), "no distance was measured inside the body"
        else:
            title, clean = f"{dataset}: attacks on {model}", _clean(rows)
            yield (
                (dataset, model),
                curves.tradeoff_figure(table, clean, title, material.families, material.threats),
            )


def distance(material: Material) -> Iterator[Drawing]:
    """Drop against L2, threat model by threat model."""
    for dataset, model, rows in prepared.white_box(material.rows):
        table = drops_by_distance(rows)
        if table.empty:
            yield (dataset, model), "no attack has both an L2 inside the body and a foreground DSC"
        else:
            title = f"{dataset}: attacks on {model}"
            yield (dataset, model), drops.distance_figure(table, title, material.families)


def transfer(material: Material) -> Iterator[Drawing]:
    """Source x target of each attack."""
    for dataset, rows in material.rows.groupby("dataset", observed=True):
        name, matrices = str(dataset), prepared.transfers(rows)
        if not matrices:
            yield (name,), "no attack was scored on another model than its source"
            continue
        scale = maps.scale([matrix.to_numpy(float) for matrix in matrices.values()])
        counts = rows.groupby(["label", "source_model", "target_model"], observed=True)["case_key"].nunique()
        for more, some in parts(list(matrices.items()), MOST_MATRICES):
            yield (name, *more), maps.transfer_figure(dict(some), scale, name, counts.tolist())


def organ(material: Material) -> Iterator[Drawing]:
    """Drop of each class under each attack."""
    for dataset, model, rows in prepared.white_box(material.rows):
        matrix, cases = prepared.organs(rows, material.classes)
        if matrix.empty:
            yield (dataset, model), "no Dice of single classes is stored"
        for more, some in parts(list(matrix.index), MOST_ROWS):
            yield (
                (dataset, model, *more),
                maps.organ_figure(matrix.loc[list(some)], cases, f"{dataset}: attacks on {model}"),
            )


def pair(material: Material) -> Iterator[Drawing]:
    """Each case, clean and attacked."""
    for dataset, model, rows in prepared.white_box(material.rows):
        table = prepared.pairs(rows)
        if table.empty:
            yield (dataset, model), "no case has a DSC on both volumes"
        for more, some in parts(_shown(material, table), MOST_PAIRS):
            part = table[table["label"].isin(some)]
            yield (dataset, model, *more), maps.pair_figure(part, f"{dataset}: attacks on {model}", some)


def _shown(material: Material, table: pd.DataFrame) -> list[str]:
    found = set(table["label"])
    return [label for label in material.labels if label in found]


def band(material: Material) -> Iterator[Drawing]:
    """The change's energy in three bands."""
    for dataset, model, rows in prepared.white_box(material.rows):
        table = prepared.means(rows, prepared.BANDS)
        table = table[(table[list(prepared.BANDS)] > 0).any(axis=1)]
        if table.empty:
            yield (dataset, model), "no energy is stored: the records are older than these columns"
        for more, some in parts(table.to_dict("records"), MOST_LINES):
            part = pd.DataFrame(some)
            yield (dataset, model, *more), curves.band_figure(part, f"{dataset}: {model}", material.styles)


def cost(material: Material) -> Iterator[Drawing]:
    """Drop against passes and seconds."""
    for dataset, model, rows in prepared.white_box(material.rows):
        table = prepared.means(rows, ("drop", "passes", "attack_seconds"))
        if (table[["passes", "attack_seconds"]] > 0).any(axis=None) and table["drop"].notna().any():
            title = f"{dataset}: attacks on {model}"
            yield (dataset, model), curves.cost_figure(table, title, material.families)
        else:
            yield (dataset, model), "neither passes nor seconds are stored"


def seam(material: Material) -> Iterator[Drawing]:
    """Seam energy of each attack."""
    for dataset, model, rows in prepared.white_box(material.rows):
        table = prepared.intervals(rows, ["label"], "seam_energy")
        if table.empty:
            yield (dataset, model), "no seam is stored: volumes of one window, or records older than the column"
        for more, some in parts(_shown(material, table), MOST_ROWS):
            part = table[table["label"].isin(some)]
            yield (dataset, model, *more), curves.seam_figure(part, f"{dataset}: {model}", some)


def natural(material: Material) -> Iterator[Drawing]:
    """Robustness to corruptions beside that to attacks."""
    names = sorted(material.rows["target_model"].astype(str).unique())
    styles = {name: series_style(place) for place, name in enumerate(names)}
    for dataset, rows in material.rows.groupby("dataset", observed=True):
        found = compared(rows)
        if isinstance(found, str):
            yield (str(dataset),), found
            continue
        for more, some in parts(found.rows, MOST_ROWS):
            yield (str(dataset), *more), corruptions.natural_figure(found, str(dataset), some, styles)
