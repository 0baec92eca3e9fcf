"""Figures for print, from records and saved volumes: vector PDF, and PNG beside it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from freqbench.core import names, storage
from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.reporting.figures import cases, drawings
from freqbench.reporting.figures.drawings import Drawing, Material
from freqbench.reporting.figures.style import pdf_and_png
from freqbench.reporting.prepared import shown_rows

__all__ = ["FIGURES", "Written", "write_figures"]

FIGURES: Mapping[str, Callable[[Material], Iterator[Drawing]]] = MappingProxyType(
    {
        "budget": drawings.budget,
        "tradeoff": drawings.tradeoff,
        "distance": drawings.distance,
        "transfer": drawings.transfer,
        "organs": drawings.organ,
        "pairs": drawings.pair,
        "bands": drawings.band,
        "cost": drawings.cost,
        "seams": drawings.seam,
        "natural": drawings.natural,
        "spectrum": cases.spectrum,
        "attacks": cases.attack,
        "robust": cases.robust,
        "changes": cases.change,
        "case": cases.full,
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
