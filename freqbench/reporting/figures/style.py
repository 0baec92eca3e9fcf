"""Sets how all figures for print look: a paper's column and page, embedded fonts, safe texts, legends, panels."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from freqbench.core.terminal import elide, printable
from freqbench.reporting.colors import SeriesStyle

COLUMN = 3.4  # inches: one of a paper's two columns
PAGE = 7.1  # both
LONGEST = 44  # letters of a label; a longer one loses its middle
SCORE = "DSC fg (%)"
DROP = "DSC fg drop (points)"
MAKER = "freqbench"  # the maker in a file's metadata
GREY = "#808080"
GRID: dict[str, Any] = {"color": "#d9d9d9", "linewidth": 0.5}
_SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for, and which stays text
    "savefig.dpi": 200,
    "image.interpolation": "nearest",
}


@contextmanager
def use_style() -> Iterator[None]:
    """Context in which figures are made and saved in the house's style, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure of `width` by `height` inches, with room for texts outside the axes."""
    return Figure(figsize=(width, height), layout="constrained")


def panels(
    count: int, most: int, inches: tuple[float, float], entries: int, labels: tuple[str, str]
) -> tuple[Figure, list[Axes]]:
    """Makes a figure of `count` panels, at most `most` beside each other, and returns it with their axes. `inches`: the
    height of all but panels and legend, and of one row of panels. The legend's `entries` stand in three columns, or in
    one below one column of panels. `labels` stand below the lowest panels and left of the first."""
    across = min(count, most)
    down = -(-count // across)
    width, columns = (COLUMN, 1) if across == 1 else (PAGE, 3)
    figure = new_figure(width, inches[0] + inches[1] * down + 0.14 * entries / columns)
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis in axes.flat[count:]:
        axis.axis("off")
    visible = list(axes.flat[:count])
    for axis in visible[-across:]:
        axis.set_xlabel(labels[0])
    for axis in visible[::across]:
        axis.set_ylabel(labels[1])
    return figure, visible


def reach(table: pd.DataFrame) -> NDArray[np.float64]:
    """Length of each interval of a `table` below and above its `drop`, [2, rows], by `low` and `high`; 0 where there is
    none."""
    lengths: NDArray[np.float64] = np.abs(table[["low", "high"]].to_numpy(float).T - table["drop"].to_numpy(float))
    return np.where(np.isnan(lengths), 0.0, lengths)


def interval_words(table: pd.DataFrame) -> str:
    """Describes dots and bars in words; rows of the `table` without `low` have no bar."""
    return "mean, 95 % interval" if table["low"].notna().any() else "mean (too few patients for an interval)"


def pdf_and_png(figure: Figure) -> tuple[bytes, bytes]:
    """Renders the figure as a vector PDF and as a PNG of 200 dots an inch; the same bytes whenever it is saved."""
    pdf = io.BytesIO()
    png = io.BytesIO()
    with use_style():
        figure.savefig(png, format="png", metadata={"Software": MAKER})
        figure.set_layout_engine("none")  # it is laid out by now: doing it again takes as long as drawing
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": MAKER})
    return pdf.getvalue(), png.getvalue()


def plain(text: object, longest: int = LONGEST) -> str:
    """Makes a text from data fit for a figure: one line, never a formula, its middle left out if it is long."""
    return elide(" ".join(printable(str(text)).split()), longest).replace("$", r"\$")


def count_text(numbers: Sequence[int]) -> str:
    """Counts cases in words: `n = 20 cases`, or `n = 12–20 cases` where the `numbers`, at least one, vary."""
    low = min(numbers)
    high = max(numbers)
    return f"n = {low if low == high else f'{low}–{high}'} {'case' if high == 1 else 'cases'}"


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Draws one legend below all axes of a `figure`, in as many columns as the longest of the `labels`, one for each of
    `handles`, allows."""
    columns = legend_columns(labels, figure.get_size_inches()[0])
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.4, columnspacing=1.2)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Returns the number of columns of a legend with these `labels` in a figure of this `width` in inches."""
    return max(1, min(len(labels), int(width / (0.36 + 0.055 * max(map(len, labels), default=1)))))


def line_handle(style: SeriesStyle, **options: Any) -> Line2D:
    """Makes the legend handle of a series' style."""
    return Line2D([], [], color=style.color, marker=style.marker, linestyle=style.dash, **options)
