"""Renders sections as LaTeX with booktabs, to be put into a paper: pandas lays tables out, texts are escaped here."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from freqbench.core.terminal import printable
from freqbench.reporting.render.columns import Section, ShownColumn, columns_of, levels, parts

PACKAGES = ("booktabs", "graphicx", "longtable")
LONG_ROWS = 40
WIDE_CHARACTERS = 75  # wider tables are scaled to the page
MAX_CHARACTERS = 110  # wider tables are split
_TEXT_WIDTHS = ((60, "5cm"), (30, "3.2cm"))  # of columns whose longest cell has more characters
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "†": r"\dag{}", "×": r"$\times$"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--"},
}
_NO_LATIN = re.compile(r"[^\x20-\x7e\xa1-\xff\n]")


def latex(sections: Sequence[Section]) -> str:
    r"""Renders `sections` as LaTeX to be `\input`, a floating table each; letters not Latin become question marks."""
    blocks = [f"% \\usepackage{{{','.join(PACKAGES)}}}"]
    for section in sections:
        note = "\n\n".join("\\\\\n".join(map(_escape, text.split("\n"))) for text in section.text.split("\n\n"))
        if section.table is None:
            blocks += [f"\\paragraph{{{_escape(section.title)}}}", *filter(None, [note])]
        else:
            blocks.append(_table(section, note and f"\n\n\\smallskip\n{{\\footnotesize\\raggedright {note}\\par}}"))
    return "\n\n".join(blocks) + "\n"


def _escape(text: str) -> str:
    escaped = "".join(_SPECIAL.get(c) or ("?" if _NO_LATIN.match(c) else c) for c in printable(text))
    return escaped.replace("[", "{[}").replace("]", "{]}")  # a row that begins with one would be an option of \\


def _table(section: Section, note: str) -> str:
    """Writes a table with its note in one float, or over several pages with the note below it."""
    columns = columns_of(section)
    caption = _escape(section.title)
    if max((len(column.cells) for column in columns), default=0) > LONG_ROWS:
        return f"{{\\scriptsize\n{_tabular(columns, environment='longtable', caption=caption)}{note}}}"
    tabulars = []
    for part in parts(columns, MAX_CHARACTERS, _width):
        tabular = _tabular(part).rstrip()
        is_narrow = sum(map(_width, part)) <= WIDE_CHARACTERS
        tabulars.append(tabular if is_narrow else f"\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}%\n}}")
    body = "\n\n\\medskip\n".join(tabulars)
    return f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{body}{note}\n\\end{{table}}"


def _tabular(columns: Sequence[ShownColumn], environment: str | None = None, caption: str | None = None) -> str:
    cells = (column.texts(lambda cell: _escape(" ".join(cell.split())), "\\textbf{{{}}}") for column in columns)
    frame = pd.DataFrame(dict(enumerate(cells)))
    headings = [(_escape(upper), _escape(lower)) for upper, lower in levels(columns)]
    has_levels = any(upper for upper, _ in headings)
    frame.columns = pd.MultiIndex.from_tuples(headings) if has_levels else pd.Index([lower for _, lower in headings])
    form: dict[str, Any] = {"hrules": True, "column_format": "".join(map(_form, columns)), "multicol_align": "c"}
    return str(frame.style.hide(axis="index").to_latex(**form, environment=environment, caption=caption))


def _width(column: ShownColumn) -> int:
    return 2 + min(max(map(len, [*column.cells, *column.heading.split("\n")])), _TEXT_WIDTHS[-1][0])


def _form(column: ShownColumn) -> str:
    """Alignment of a column; one with long texts has a width, so that they wrap."""
    longest = max(map(len, column.cells), default=0)
    return "r" if column.is_number else next((f"p{{{width}}}" for limit, width in _TEXT_WIDTHS if longest > limit), "l")
