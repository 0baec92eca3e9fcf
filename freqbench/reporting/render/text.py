"""Renders sections as terminal text (the beginning of a long table), Markdown and CSV; a missing value is empty."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd
from rich.table import Table

from freqbench.core.terminal import PlainConsole, printable
from freqbench.reporting.render.columns import Section, ShownColumn, columns_of, one_line, parts

TERMINAL_ROWS = 60
TERMINAL_WIDTH = 110
WRAPPED_WIDTH = 12
LONGEST_WORD = 40  # that is never broken
MARK = "{}†"
_WRAPPED = ("attack", "A", "B", "strongest", "first reason", "verdict", "reason", "what should hold", "what was found")


def markdown(sections: Sequence[Section]) -> str:
    """Renders `sections` as a Markdown page with pipe tables; texts hold no HTML."""
    lines = []
    for section in sections:
        lines.append(f"## {_inline(section.title)}")
        if section.text:
            lines.append(_inline(section.text))
        if section.table is not None:
            columns = columns_of(section)
            cells = {_pipe(one_line(column.heading)): column.texts(_pipe, "**{}**") for column in columns}
            align = ["right" if column.is_number else "left" for column in columns]
            lines.append(pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True, colalign=align))
    return "\n\n".join(lines) + "\n"


def _pipe(text: str) -> str:
    return _inline(text).replace("|", "\\|")


def _inline(text: str) -> str:
    """Escapes a text so that a Markdown page finds no HTML in it."""
    return printable(text).replace("<", "&lt;")


def csv(table: pd.DataFrame) -> str:
    """Writes one table with every digit; a text that a spreadsheet would compute is prefixed with an apostrophe."""
    names = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{name: table[name].map(_cell_text) for name in names}).to_csv(index=False)


def sections_csv(sections: Sequence[Section]) -> str:
    """Writes the exact data of `sections` as one table: each frame once, one below the other, with a column `section`,
    their titles, where there are several."""
    frames: list[tuple[str, pd.DataFrame]] = []
    for section in sections:
        frame = section.table if section.data is None else section.data
        if frame is not None and not any(frame is other for _, other in frames):
            frames.append((section.title, frame))
    if len(frames) < 2:
        return csv(frames[0][1]) if frames else ""
    return csv(pd.concat([frame.assign(section=title) for title, frame in frames], ignore_index=True))


def _cell_text(value: object) -> object:
    """Makes a text that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    return f"'{text}" if (text := printable(value)).lstrip().startswith(("=", "+", "-", "@")) else text


def terminal(sections: Sequence[Section], width: int | None = None) -> str:
    """Renders `sections` as plain text of `width` columns, at most TERMINAL_ROWS rows of each; None: the terminal's
    width, TERMINAL_WIDTH at most."""
    width = width or min(shutil.get_terminal_size((TERMINAL_WIDTH, 0)).columns, TERMINAL_WIDTH)
    console = PlainConsole(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        for section in sections:
            console.print(section.title)
            if section.text:
                console.print(section.text)
            if section.table is not None:
                head = section.table.head(TERMINAL_ROWS)
                for part in parts(columns_of(replace(section, table=head)), width - 2, _width):
                    console.print(_rich(part, _ends(head)))
                if (hidden := len(section.table) - TERMINAL_ROWS) > 0:
                    console.print(f"... and {hidden:,} more rows: --format csv (or md) has all of them")
            console.print()
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip() + "\n"


def _width(column: ShownColumn) -> int:
    """Width of a column in characters, with the gap to the next; long texts are wrapped between words."""
    texts = [*column.heading.split("\n"), *column.texts(str, MARK)]
    longest = max(map(len, texts))
    if column.heading not in _WRAPPED:
        return 2 + longest
    words = " ".join(texts).split()
    word = max(map(len, words), default=0)
    return 2 + min(longest, max(WRAPPED_WIDTH, min(word, LONGEST_WORD)))


def _ends(table: pd.DataFrame) -> Sequence[bool]:
    """True for each row that ends a group: of a threat model, or of an attack if it has one row per source model."""
    if "threat_model" not in table:
        return [False] * len(table)
    group = table["attack" if {"attack", "source_model"} <= {*table} else "threat_model"]
    return [bool(end) for end in group != group.shift(-1)]


def _rich(columns: Sequence[ShownColumn], ends: Sequence[bool]) -> Table:
    table = Table(padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        table.add_column(column.heading, justify=justify, no_wrap=column.heading not in _WRAPPED, overflow="fold")
    for *cells, ends_here in zip(*(column.texts(str, MARK) for column in columns), ends, strict=True):
        table.add_row(*cells, end_section=ends_here)
    return table
