"""Turns a section's table into headings and cells as a person reads them, the same in every format."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, takewhile

import pandas as pd

from freqbench.analysis.groups import points
from freqbench.analysis.labels import name_regions, reword_dsc
from freqbench.analysis.scores import SCORES
from freqbench.analysis.tables import COUNTED
from freqbench.core.types import AGREEMENT, dataset_name

HEADINGS = {score.name: score.heading.replace(" ", "\n") for score in SCORES} | {
    "source_model": "source",
    "target_model": "target",
    "threat_model": "threat\nmodel",
    "cases": "n",
    "dsc_foreground_clean": "clean DSC\nforeground",
    "dsc_foreground_drop": "drop\nforeground",
    "hd95": "HD95\nvoxels",
    "hd95_medpy_mm": "HD95\nmedpy\nmm",
    "hd95_penalised": "HD95\npenalised\nmm",
    "linf_255": "L-inf\n1/255",
    "smallest_linf_255": "smallest\nL-inf\n1/255",
    "smallest_l2_255": "smallest\nrms\n1/255",
    "l2": "L2\n0..1",
    "l2_body": "L2 body\n0..1",
    "displacement_mean_mm": "displacement\nmean\nmm",
    "displacement_max_mm": "displacement\nlargest\nmm",
    "volume_error_ml": "volume error\nml",
    "volume_error_relative": "volume error\n%",
    "num_attacks": "attacks",
    "first_reason": "first reason",
    "null row": "null\nrow",
    "SSIM body": "SSIM\nbody",
}
_WHOLE = frozenset({"cases", "seeds", "failed", "hd95_undefined", "num_attacks"})
OWN = (  # note below scores of datasets with `reference: prediction`
    "Agreement is the Dice of a model's prediction with its own prediction of the clean volume, which is 100 on clean "
    "volumes by construction. It says how stable the model is, not whether it is right: read it beside noise and null "
    "rows, and no rank by it as one of quality, as a model that always predicts the same comes first."
)
_NUMBERS = re.compile(r"[-+(\[]*\d[\d.,/\s%()\[\]*+-]*")


@dataclass(frozen=True)
class Section:
    """Part of a page: a title, then `table` (numbers are rounded), text, or both. Lines of a heading are levels."""

    title: str
    table: pd.DataFrame | None = None
    text: str = ""
    data: pd.DataFrame | None = None  # what csv writes, a number a row with every digit; None: `table`
    marks: Collection[tuple[int, str]] = ()  # highlighted cells, by position of the row and name of the column


def word_sections(sections: Sequence[Section], regional: Collection[str] = ()) -> list[Section]:
    """Returns sections that call scores agreement, with a note at the end, where their title names such a dataset, and
    classes regions where it begins with one of `regional`."""

    def word_text(text: str, title: str) -> str:
        return reword_dsc(name_regions(text) if dataset_name(title.partition(": ")[0]) in regional else text, title)

    named = [
        replace(section, title=word_text(section.title, section.title), text=word_text(section.text, section.title))
        for section in sections
    ]
    is_said = any(AGREEMENT in section.title for section in sections)
    return [*named, Section("Agreement", text=OWN)] if is_said else named


@dataclass(frozen=True)
class ShownColumn:
    """Column as a person reads it: heading lines, alignment, texts (empty: no value), positions of marked cells."""

    heading: str
    is_number: bool
    cells: list[str]
    marked: frozenset[int]

    def texts(self, escaped: Callable[[str], str], mark: str) -> list[str]:
        """Cells as a format writes them, each `escaped`, marked ones within `mark`, such as `**{}**`."""
        return [mark.format(text) if row in self.marked else text for row, text in enumerate(map(escaped, self.cells))]


def columns_of(section: Section) -> list[ShownColumn]:
    """Makes the columns of a `section`'s table as a person reads them: headings, rounded numbers, empty cells; `n` with
    seeds (`12x3`)."""
    table = section.table if section.table is not None else pd.DataFrame()
    hidden = {"seeds", "failed", *(f"{name}_cases" for name in COUNTED)} if "cases" in table else set()
    columns = []
    for name in table.columns:
        if name not in hidden:
            heading = reword_dsc(HEADINGS.get(name, str(name)), section.title)
            is_number = pd.api.types.is_numeric_dtype(table[name]) or _are_numbers(table[name])
            marked = frozenset(row for row, column in section.marks if column == name)
            columns.append(ShownColumn(heading, is_number, _cells(table, name), marked))
    return columns


def levels(columns: Sequence[ShownColumn]) -> list[tuple[str, str]]:
    """Splits the heading of each of `columns` into (upper, lower): the first line is upper where neighbours share it,
    else upper is ""."""
    parts = [column.heading.partition("\n") for column in columns]
    uppers = [None, *(upper if line else None for upper, line, _ in parts), None]
    neighbours = zip(uppers[:-2], uppers[1:-1], uppers[2:], strict=True)
    shown = []
    for column, (upper, _, lower), (left, middle, right) in zip(columns, parts, neighbours, strict=True):
        is_shared = middle is not None and middle in (left, right)
        shown.append((upper, one_line(lower)) if is_shared else ("", one_line(column.heading)))
    return shown


def one_line(heading: str) -> str:
    """Joins the lines of a heading."""
    return heading.replace("/\n", "/").replace("\n", " ")


def parts(columns: Sequence[ShownColumn], width: int, size_of: Callable[[ShownColumn], int]) -> list[list[ShownColumn]]:
    """Splits columns into parts of `width` (`size_of`: one with its gap), between headings if possible; names stay."""
    names = [*takewhile(lambda column: not column.is_number, columns)]
    room = width - sum(map(size_of, names))
    chunks: list[list[ShownColumn]] = [[]]
    for _, group in groupby(columns[len(names) :], key=lambda column: column.heading.partition("\n")[0]):
        members = [*group]
        for piece in [members] if sum(map(size_of, members)) <= room else [[member] for member in members]:
            if chunks[-1] and sum(map(size_of, [*chunks[-1], *piece])) > room:
                chunks.append([])
            chunks[-1] += piece
    return [[*names, *part] for part in chunks]


def _cells(table: pd.DataFrame, name: str) -> list[str]:
    """Makes one column's cells: `31.20 (n 9)` if some cases are undefined; a transfer's white-box ones have a star."""
    cells = [_cell(value, 0 if name in _WHOLE else 1) for value in table[name]]
    if name == "cases" and "seeds" in table:
        seeds = table["seeds"].fillna(0)
        return [f"{cell}x{count:.0f}" if count > 1 else cell for cell, count in zip(cells, seeds, strict=True)]
    if name in COUNTED and f"{name}_cases" in table:
        counts = zip(cells, table[f"{name}_cases"], table["cases"], strict=True)
        return [f"{cell} (n {some:.0f})" if cell and some < cases else cell for cell, some, cases in counts]
    if pd.api.types.is_float_dtype(table[name]) and "source_model" in table:
        sources = zip(cells, table["source_model"], strict=True)
        return [f"{cell}*" if cell and source == name else cell for cell, source in sources]
    return cells


def _are_numbers(column: pd.Series) -> bool:
    """True if ready strings are numbers, apart from signs, brackets and stars around them."""
    texts = [text for text in column.unique() if isinstance(text, str) and text]
    return bool(texts) and all(_NUMBERS.fullmatch(text) for text in texts)


def _cell(value: object, digits: int) -> str:
    if value is None or value is pd.NA:
        return ""
    return points(value, digits) if isinstance(value, float) else " ".join(str(value).split())
