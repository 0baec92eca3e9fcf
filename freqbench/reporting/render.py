"""Tables as text: terminal, Markdown and CSV. What is missing is an empty cell, never 0.

The terminal shows the beginning of a long table and says so; Markdown and CSV are whole.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

TERMINAL_ROWS = 60

HEADINGS = {
    "dataset": "dataset",
    "source_model": "source",
    "target_model": "target",
    "threat_model": "threat\nmodel",
    "cases": "n",
    "dsc": "DSC",
    "dsc_drop": "drop",
    "dsc_foreground": "DSC\nfg",
    "hd95": "HD95",
    "hd95_undefined": "undef",
    "ssim": "SSIM",
    "ssim_body": "SSIM\nbody",
    "lpips": "LPIPS",
    "lpips_body": "LPIPS\nbody",
    "linf_255": "L-inf",
    "l2_body": "L2\nbody",
    "num_attacks": "attacks",
    "num_cases": "n",
    "strongest_dsc": "its\nDSC",
    "first_reason": "first reason",
}
_WRAPPED = frozenset({"attack", "strongest", "first reason"})
_WHOLE = frozenset({"cases", "seeds", "failed", "hd95_cases", "hd95_undefined", "num_attacks", "num_cases"})


@dataclass(frozen=True)
class Section:
    """A part of a page: a title, then a table or lines of text or both."""

    title: str
    table: pd.DataFrame | None = None
    text: str = ""


@dataclass(frozen=True)
class _Column:
    heading: str
    is_number: bool
    cells: list[str]


def markdown(sections: Sequence[Section]) -> str:
    """The page as Markdown with pipe tables."""
    parts = []
    for section in sections:
        parts.append(f"## {section.title}")
        if section.text:
            parts.append(section.text)
        if section.table is not None:
            columns = _columns(section.table)
            cells = {
                column.heading.replace("\n", " "): [cell.replace("|", "\\|") for cell in column.cells]
                for column in columns
            }
            align = ["right" if column.is_number else "left" for column in columns]
            parts.append(pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True, colalign=align))
    return "\n\n".join(parts) + "\n"


def csv(table: pd.DataFrame) -> str:
    """One table with every digit."""
    return table.to_csv(index=False)


def terminal(sections: Sequence[Section], width: int = 110) -> str:
    """The page as plain text for a terminal of that many columns."""
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        for section in sections:
            console.print(section.title)
            if section.text:
                console.print(section.text)
            if section.table is not None:
                console.print(_rich(section.table.head(TERMINAL_ROWS)))
                hidden = len(section.table) - TERMINAL_ROWS
                if hidden > 0:
                    console.print(f"... and {hidden:,} more rows: report --format csv (or md) has all of them")
            console.print()
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip() + "\n"


def _rich(table: pd.DataFrame) -> Table:
    """With a line where the threat model changes, or the attack where it has a row for each source model."""
    columns = _columns(table)
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        shown.add_column(column.heading, justify=justify, no_wrap=column.heading not in _WRAPPED, overflow="fold")
    ends = pd.Series(False, index=table.index)
    if "threat_model" in table:
        group = table["attack" if {"attack", "source_model"} <= {*table} else "threat_model"]
        ends = group != group.shift(-1)
    for cells, ends_here in zip(zip(*(column.cells for column in columns), strict=True), ends, strict=True):
        shown.add_row(*cells, end_section=bool(ends_here))
    return shown


def _columns(table: pd.DataFrame) -> list[_Column]:
    """The columns as a person reads them: headings, rounded numbers, empty cells; `n` with seeds (`12x3`)."""
    hidden = {"seeds", "hd95_cases", "failed"} if "cases" in table else set()
    return [
        _Column(HEADINGS.get(name, name), pd.api.types.is_numeric_dtype(table[name]), _cells(table, name))
        for name in table.columns
        if name not in hidden
    ]


def _cells(table: pd.DataFrame, name: str) -> list[str]:
    """One column's cells.

    HD95 says over how many cases it is a mean where it is undefined on some, `31.20 (n 9)`; a transfer table's
    white-box cells have a star.
    """
    cells = [_cell(value, 0 if name in _WHOLE else 1) for value in table[name]]
    if name == "cases":
        seeds = table["seeds"].fillna(0)
        return [f"{cell}x{count:.0f}" if count > 1 else cell for cell, count in zip(cells, seeds, strict=True)]
    if name == "hd95":
        counts = zip(cells, table["hd95_cases"], table["cases"], strict=True)
        return [f"{cell} (n {some:.0f})" if cell and some < cases else cell for cell, some, cases in counts]
    if pd.api.types.is_float_dtype(table[name]) and "source_model" in table:
        sources = zip(cells, table["source_model"], strict=True)
        return [f"{cell}*" if cell and source == name else cell for cell, source in sources]
    return cells


def _cell(value: object, digits: int) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0 makes -0.0 plain 0.0
    return " ".join(str(value).split())
