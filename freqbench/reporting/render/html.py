"""Renders sections as one small HTML document that opens from disk: great-tables lays out and escapes the tables."""

from collections.abc import Sequence
from html import escape
from itertools import groupby

import pandas as pd

from freqbench.core.terminal import printable
from freqbench.reporting.render.columns import Section, ShownColumn, columns_of, levels

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 0.5rem; }}
p {{ max-width: 50rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def html(sections: Sequence[Section]) -> str:
    """Renders the page as a whole HTML document, without scripts and without anything from elsewhere."""
    parts = []
    for i, section in enumerate(sections):
        parts.append(f"<h2>{_escape(section.title)}</h2>")
        parts += [f"<p>{_escape(text)}</p>" for text in section.text.split("\n\n") if text]
        if section.table is not None:
            parts.append(_table(columns_of(section), f"table{i}"))
    title = sections[0].title if sections else ""
    return _PAGE.format(title=_escape(title), body="\n".join(parts))


def _escape(text: str) -> str:
    return escape(printable(text)).replace("\n", "<br>")


def _table(columns: Sequence[ShownColumn], name: str) -> str:
    from great_tables import GT, loc, style

    keys = [f"c{i}" for i in range(len(columns))]
    headings = [(printable(upper), printable(lower)) for upper, lower in levels(columns)]
    frame = pd.DataFrame({key: list(map(printable, column.cells)) for key, column in zip(keys, columns, strict=True)})
    table = GT(frame, id=name).cols_label({key: lower for key, (_, lower) in zip(keys, headings, strict=True)})
    for key, column in zip(keys, columns, strict=True):
        table = table.cols_align("right" if column.is_number else "left", columns=[key])
        if column.marked:
            table = table.tab_style(style.text(weight="bold"), loc.body(columns=[key], rows=sorted(column.marked)))
    start = 0
    for upper, group in groupby(headings, key=lambda heading: heading[0]):
        end = start + len(list(group))
        if upper:
            table = table.tab_spanner(upper, columns=keys[start:end], id=f"{name}-{start}")
        start = end
    return str(table.tab_options(table_margin_left="0", table_font_size="14px", data_row_padding="3px").as_raw_html())
