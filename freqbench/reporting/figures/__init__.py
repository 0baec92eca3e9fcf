"""Writes the figures for print, from records and saved volumes: vector PDF, and PNG beside it."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from freqbench.analysis.labels import reword_dsc
from freqbench.core import names
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import cases, curves
from freqbench.reporting.figures.style import MAKER, pdf_and_png, use_style

__all__ = ["FIGURES", "Written", "write_figures"]
Drawing = tuple[tuple[str, ...], Figure | str]  # group; figure, or why none


def _each(draw: Callable[..., Figure | str], *by: str) -> Callable[[Material], Iterator[Drawing]]:
    """Draws the figure of each group of rows; groups of a source model hold white-box rows only."""

    def drawings(material: Material) -> Iterator[Drawing]:
        rows = material.rows[material.rows["is_white_box"]] if "source_model" in by else material.rows
        for group, part in rows.groupby(list(by), observed=True):
            of = tuple(map(str, group))
            with use_style():
                figure = draw(material, part, *of)
            for text in figure.findobj(Text) if isinstance(figure, Figure) else ():
                if text.get_text() != (words := reword_dsc(text.get_text(), of[0])):
                    text.set_text(words)
            yield of, figure

    return drawings


FIGURES: Mapping[str, Callable[[Material], Iterator[Drawing]]] = {
    "distance": _each(curves.distance, "dataset", "source_model"),
    "ejection": _each(curves.ejection, "dataset"),
    "case": _each(cases.full, "dataset", "source_model"),
}
_LONGEST = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9_.,+=@()-]+")


@dataclass(frozen=True)
class Written:
    """Paths of all files, two per figure; and the reason for each missing figure, by its name and group."""

    paths: tuple[str, ...]
    reasons: Mapping[str, str]


def write_figures(records: pd.DataFrame, classes: pd.DataFrame, volumes_root: str | None, folder: str) -> Written:
    """Writes every figure that the data allow, as `NAME-DATASET-MODEL.pdf` and `.png`, to a folder or URI.

    Args:
        records: one row per key, with the columns of NUMBERS of `figure_data`.
        classes: CLASS_RECORDS, for the names of organs and the ejection fraction.
        volumes_root: `OUT/volumes`; None to show no volumes.
        folder: made if missing; a file of another maker is not replaced (UserError).
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
                storage.require_own(path, MAKER.encode())
                storage.write_atomic(path, content)
                paths[path] = None
        if not drawn:
            reasons[name] = "no white-box record is ok"
    return Written(tuple(paths), reasons)


def file_stem(*parts: str) -> str:
    """Joins parts to a file's name without suffix; an unsafe or long part is shortened and gets digits of its own."""
    return "-".join(map(_safe, parts))


def _safe(part: str) -> str:
    with suppress(UserError):
        if len(names.require_name(part)) <= _LONGEST:
            return part
    return f"{_UNSAFE.sub('_', part)[:40].lstrip('.-')}_{digest(part)[:8]}"
