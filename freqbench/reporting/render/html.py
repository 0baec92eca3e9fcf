"""Renders sections as one small HTML document that opens from disk."""

from collections.abc import Sequence
from html import escape
from itertools import groupby

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
table {{ font-size: 14px; border-collapse: collapse; border: 2px solid #a8a8a8; border-width: 2px 0; }}
th, td {{ padding: 3px 5px; text-align: left; border-top: 1px solid #d3d3d3; }}
th {{ font-weight: normal; vertical-align: bottom; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.shared {{ text-align: center; }}
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
    for section in sections:
        parts.append(f"<h2>{_escape(section.title)}</h2>")
        parts += [f"<p>{_escape(text)}</p>" for text in section.text.split("\n\n") if text]
        if section.table is not None:
            parts.append(_table(columns_of(section)))
    title = sections[0].title if sections else ""
    return _PAGE.format(title=_escape(title), body="\n".join(parts))


def _escape(text: str) -> str:
    return escape(printable(text)).replace("\n", "<br>")


def _table(columns: Sequence[ShownColumn]) -> str:
    headings = levels(columns)
    groups = [(upper, len([*group])) for upper, group in groupby(headings, key=lambda heading: heading[0])]
    shared = "".join(f'<th class="shared" colspan="{size}">{_escape(upper)}</th>' for upper, size in groups)
    kinds = [' class="number"' if column.is_number else "" for column in columns]
    heads = "".join(f"<th{kind}>{_escape(lower)}</th>" for kind, (_, lower) in zip(kinds, headings, strict=True))
    rows = [f"<tr>{shared}</tr>"] * any(upper for upper, _ in groups) + [f"<tr>{heads}</tr>"]
    for texts in zip(*(column.texts(_escape, "<strong>{}</strong>") for column in columns), strict=True):
        cells = (f"<td{kind}>{text}</td>" for kind, text in zip(kinds, texts, strict=True))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join(["<table>", *rows, "</table>"])
