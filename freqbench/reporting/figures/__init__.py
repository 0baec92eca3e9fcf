"""Writes the figures for print, from records and saved volumes: vector PDF, and PNG beside it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd
from matplotlib.figure import Figure

from freqbench.core import names, storage
from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.reporting.figure_data import Material, shown_rows, white_box
from freqbench.reporting.figures import cases, corruptions, curves, maps
from freqbench.reporting.figures.style import pdf_and_png, styled

__all__ = ["FIGURES", "Written", "write_figures"]

Drawing = tuple[tuple[str, ...], Figure | str]
"""What a figure is of, with a number from the second on; and the figure, or why there is none."""


def _each_model(draw: Callable[..., Iterator[Figure | str]]) -> Callable[[Material], Iterator[Drawing]]:
    """Figures of each dataset and model, white-box rows alone."""

    def drawings(material: Material) -> Iterator[Drawing]:
        for dataset, model, rows in white_box(material.rows):
            yield from _numbered((dataset, model), draw(material, rows, dataset, model))

    return drawings


def _each_dataset(draw: Callable[..., Iterator[Figure | str]]) -> Callable[[Material], Iterator[Drawing]]:
    def drawings(material: Material) -> Iterator[Drawing]:
        for dataset, rows in material.rows.groupby("dataset", observed=True):
            yield from _numbered((str(dataset),), draw(material, rows, str(dataset)))

    return drawings


def _numbered(of: tuple[str, ...], drawn: Iterator[Figure | str]) -> Iterator[Drawing]:
    number = 0
    while True:
        with styled():  # around each figure alone, not around what happens to it
            figure = next(drawn, None)
        if figure is None:
            return
        number += 1
        yield (of if number == 1 else (*of, str(number))), figure


FIGURES: Mapping[str, Callable[[Material], Iterator[Drawing]]] = MappingProxyType(
    {
        "budget": _each_model(curves.budget),
        "tradeoff": _each_model(curves.tradeoff),
        "distance": _each_model(curves.distance),
        "transfer": _each_dataset(maps.transfer),
        "organs": _each_model(maps.organs),
        "pairs": _each_model(maps.pairs),
        "bands": _each_model(curves.bands),
        "cost": _each_model(curves.cost),
        "seams": _each_model(curves.seams),
        "natural": _each_dataset(corruptions.natural),
        "spectrum": _each_model(cases.spectrum),
        "attacks": _each_model(cases.attacks),
        "robust": _each_dataset(cases.robust),
        "changes": _each_model(cases.changes),
        "case": _each_model(cases.full),
    }
)

_LONGEST = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9_.,+=@()-]+")


@dataclass(frozen=True)
class Written:
    """What `write_figures` did.

    Attributes:
        paths: of all files, two a figure.
        reasons: why a figure is not there, by its name and what it would be of (`budget: phantom, unet`).
    """

    paths: tuple[str, ...]
    reasons: Mapping[str, str]


def write_figures(records: pd.DataFrame, classes: pd.DataFrame, volumes_root: str | None, folder: str) -> Written:
    """Write every figure that the data allow, as `NAME-DATASET-MODEL.pdf` and `.png`.

    Args:
        records: columns of RECORDS, one row a key; `tables.current` and `strength.checked` are applied where they have
            not been.
        classes: of CLASS_RECORDS.
        volumes_root: `OUT/volumes`; None where no volumes are to be shown.
        folder: where to write, a folder or URI.

    Raises:
        StorageRefused, StorageUnavailable: the files cannot be written.
    """
    material = Material(shown_rows(records), classes, volumes_root)
    paths: dict[str, None] = {}
    reasons: dict[str, str] = {}
    for name, draw in FIGURES.items():
        drawn = False
        for of, figure in draw(material):
            drawn = True
            if isinstance(figure, str):
                reasons[f"{name}: {', '.join(of)}"] = figure
                continue
            stem = file_stem(name, *of)
            if storage.join(folder, f"{stem}.pdf") in paths:
                stem = f"{stem}-{digest(of)[:8]}"
            for suffix, content in zip(("pdf", "png"), pdf_and_png(figure), strict=True):
                path = storage.join(folder, f"{stem}.{suffix}")
                storage.write_atomic(path, content)
                paths[path] = None
        if not drawn:
            reasons[name] = "no white-box record is ok"
    return Written(tuple(paths), MappingProxyType(reasons))


def file_stem(*parts: str) -> str:
    """A file's name without suffix; parts that may not be in one are replaced and get digits of their own.

    >>> file_stem("budget", "phantom", "unet"), file_stem("budget", "../x")
    ('budget-phantom-unet', 'budget-_x_84c5d9a6')
    """
    return "-".join(map(_safe, parts))


def _safe(part: str) -> str:
    try:
        if len(names.required(part)) <= _LONGEST:
            return part
    except UserError:
        pass  # what is wrong with it is mended below
    return f"{_UNSAFE.sub('_', part)[:40].lstrip('.-')}_{digest(part)[:8]}"
