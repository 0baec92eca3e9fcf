"""Figures of points and lines: one series an attack, told apart by colour, marker and dash."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from freqbench.analysis.labels import INTENSITY_PARAMETERS
from freqbench.reporting.colors import MARKERS, SeriesStyle, series_style
from freqbench.reporting.figures.style import (
    COLUMN,
    GREY,
    GRID,
    PAGE,
    counted,
    legend,
    line_handle,
    listing_width,
    new_figure,
    plain,
    styled,
)
from freqbench.reporting.prepared import BANDS, DISTANCES

Places = Mapping[str, int]
Styles = Mapping[str, SeriesStyle]
PANELS = 4  # beside each other


def _what(table: pd.DataFrame) -> str:
    """Dots and bars in words."""
    return "mean, 95 % interval" if table["low"].notna().any() else "mean (one patient: no interval)"


@styled()
def budget_figure(curves: pd.DataFrame, clean: float, title: str, families: Places) -> Figure:
    """DSC against budget with 95 % intervals, one panel a threat model.

    Args:
        curves: of `prepared.budget_curves`.
        clean: mean DSC x100 on clean volumes, a dotted line.
        title: dataset and model.
        families: of `prepared.places`.
    """
    panels = list(curves.groupby(["threat_model", "budget_name"], sort=False))
    shown = [family for family in families if family in set(curves["family"])]
    across = min(len(panels), PANELS)
    down = -(-len(panels) // across)
    width = COLUMN if across == 1 else PAGE
    figure = new_figure(width, 0.7 + 1.6 * down + 0.14 * len(shown) / (1 if width == COLUMN else 3))
    axes = figure.subplots(down, across, sharey=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, ((threat, name), panel) in zip(axes.flat[: len(panels)], panels, strict=True):
        axis.axhline(clean, color=GREY, linestyle="dotted")
        for number, (family, series) in enumerate(panel.groupby("family", sort=False)):
            style, x = series_style(families[str(family)]), series["budget"].to_numpy()
            nudge = (number - (panel["family"].nunique() - 1) / 2) * 0.008 * np.ptp(panel["budget"].to_numpy())
            bounds = series[["low", "high"]].to_numpy().T.clip(0, 100)  # of few patients t reaches beyond any DSC
            error = np.abs(bounds - series["mean"].to_numpy())
            axis.errorbar(
                *(x + nudge, series["mean"]),
                yerr=np.nan_to_num(error),
                color=style.color,
                marker=style.marker,
                linestyle=style.dash,
                elinewidth=0.7,
                capsize=1.5,
            )
        unit = " (1/255)" if name in INTENSITY_PARAMETERS else ""
        axis.set_xlabel(f"{plain(name)}{unit}")
        axis.set_title(f"{plain(threat)}, {counted(panel['n'].tolist(), 'cases')}", loc="left")
        axis.set_xticks(sorted(panel["budget"].unique()))
        axis.xaxis.set_major_formatter("{x:.4g}")
        axis.grid(axis="y", **GRID)
    for axis in axes[:, 0]:
        axis.set_ylabel("DSC (%)")
    figure.suptitle(f"{plain(title, 60 if width == PAGE else 36)}: {_what(curves)}")
    handles = [*(line_handle(series_style(families[family])) for family in shown), _dotted()]
    legend(figure, handles, [*(plain(family) for family in shown), "clean"])
    return figure


def _dotted() -> Line2D:
    return Line2D([], [], color=GREY, linestyle="dotted")


@styled()
def tradeoff_figure(table: pd.DataFrame, clean: float, title: str, families: Places, threats: Places) -> Figure:
    """DSC against each distance, one panel each; lines of equal distance are the light ones, at the stated values.

    Attacks of one threat model share a marker, the budgets of one attack a line, and numbers lead to the legend. To the
    right of every panel more of the volume was changed.

    Args:
        table: of `prepared.means` with `dsc` and the columns of DISTANCES; those without a value have no panel.
        clean: mean DSC x100 on clean volumes.
        title: dataset and model.
        families: of `prepared.places`, as are `threats`.
    """
    columns = [name for name in DISTANCES if table[name].notna().any()]
    shown = [family for family in families if family in set(table["family"])]
    kinds = [threat for threat in threats if threat in set(table["threat_model"])]
    figure = new_figure(PAGE, 2.5 + 0.14 * (len(shown) + len(kinds)) / 3)
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        axis.axhline(clean, color=GREY, linestyle="dotted")
        for number, family in enumerate(shown, 1):
            series = table[table["family"] == family].sort_values("budget", kind="stable")
            style = series_style(families[family])
            for threat, part in series.groupby("threat_model", sort=False):
                _numbered(axis, part[column], part["dsc"], number, style, _marker(threats[str(threat)]))
        axis.set_xlabel(DISTANCES[column])
        axis.grid(axis="x", **GRID)
        if column == "ssim_body":
            axis.invert_xaxis()
    axes[0].set_ylabel("DSC (%)")
    cases = counted(table["n"].tolist(), "cases")
    figure.suptitle(f"{plain(title, 60)}, {cases}; grid lines: equal distance; more change to the right")
    markers = [
        Line2D([], [], color="black", marker=_marker(threats[kind]), linestyle="none", mfc="w") for kind in kinds
    ]
    colours = [Line2D([], [], color=series_style(families[family]).color) for family in shown]
    texts = [f"{number} {plain(family)}" for number, family in enumerate(shown, 1)]
    legend(
        figure, [*markers, *colours, _dotted()], [*(f"threat model {plain(kind)}" for kind in kinds), *texts, "clean"]
    )
    return figure


def _marker(place: int) -> str:
    return MARKERS[place % len(MARKERS)]


def _numbered(axis: Axes, x: pd.Series, y: pd.Series, number: int, style: SeriesStyle, marker: str) -> None:
    """Points of one attack, joined, the number of the legend in each."""
    axis.plot(x, y, color=style.color, linestyle=style.dash, linewidth=0.7, zorder=2)
    height = 3 + number / 100  # what covers a marker covers its number too
    shape: dict[str, Any] = {"marker": marker, "markersize": 8, "mfc": "white", "mec": style.color, "mew": 0.9}
    axis.plot(x, y, linestyle="none", zorder=height, **shape)
    for left, top in zip(x, y, strict=True):
        if np.isfinite(left) and np.isfinite(top):
            axis.annotate(str(number), (left, top), ha="center", va="center", fontsize=4.5, zorder=height)


@styled()
def cost_figure(table: pd.DataFrame, title: str, families: Places) -> Figure:
    """What an attack takes off against what it costs: passes and seconds a case, on logarithmic axes.

    Args:
        table: of `prepared.means` with `drop`, `passes` and `attack_seconds`.
        title: dataset and model.
        families: of `prepared.places`.
    """
    costs = {"passes": "passes a case (forward + backward)", "attack_seconds": "seconds a case"}
    columns = {name: text for name, text in costs.items() if (table[name] > 0).any()}
    shown = [family for family in families if family in set(table["family"])]
    width = COLUMN if len(columns) == 1 else PAGE
    figure = new_figure(width, 2.3 + 0.14 * len(shown) / (1 if width == COLUMN else 3))
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, (column, text) in zip(axes, columns.items(), strict=True):
        for number, family in enumerate(shown, 1):
            series = table[table["family"] == family].sort_values("budget", kind="stable")
            style = series_style(families[family])
            _numbered(axis, series[column], series["drop"], number, style, style.marker)
        _log_axis(axis, table[column])
        axis.set_xlabel(text)
        axis.grid(axis="y", **GRID)
        axis.axhline(0, color=GREY, linewidth=0.6)
    axes[0].set_ylabel("drop of DSC (points)")
    figure.suptitle(f"{plain(title, 90)}, {counted(table['n'].tolist(), 'cases')}")
    styles = [series_style(families[family]) for family in shown]
    handles = [Line2D([], [], color=s.color, marker=s.marker, linestyle=s.dash, mfc="white") for s in styles]
    legend(figure, handles, [f"{number} {plain(family)}" for number, family in enumerate(shown, 1)])
    return figure


def _log_axis(axis: Axes, values: pd.Series) -> None:
    """Logarithmic with plain numbers; where something costs nothing, 0 stands to the left of all."""
    spread = np.log10(values.max() / values[values > 0].min())
    if (values == 0).any():
        axis.set_xscale("symlog", linthresh=1, linscale=0.4)
        axis.set_xticks([0, *(10.0**power for power in range(int(np.log10(values.max())) + 1))])
        axis.set_xlim(left=-0.4)
    else:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if spread < 2 else (1,)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter("{x:g}")


@styled()
def band_figure(table: pd.DataFrame, title: str, styles: Styles) -> Figure:
    """The change's mean absolute DCT coefficient in the low, middle and high band, one line an attack.

    Args:
        table: of `prepared.means` with the columns of BANDS.
        title: dataset and model.
        styles: of `prepared.attack_styles`.
    """
    figure = new_figure(COLUMN, 2.3 + 0.155 * len(table))
    axis = figure.subplots()
    for row in table.to_dict("records"):
        style = styles[row["label"]]
        axis.plot(range(3), [row[band] for band in BANDS], color=style.color, marker=style.marker, linestyle=style.dash)
    axis.set_yscale("log")
    axis.set_xticks(range(3), ["low", "middle", "high"])
    axis.set_xlim(-0.2, 2.2)
    axis.set_xlabel("DCT band of blocks of 8 voxels a side")
    axis.set_ylabel("mean |coefficient| (intensity)")
    figure.suptitle(f"{plain(title, 40)}, {counted(table['n'].tolist(), 'cases')}")
    axis.grid(axis="y", **GRID)
    handles = [line_handle(styles[label]) for label in table["label"]]
    legend(figure, handles, [plain(label) for label in table["label"]])
    return figure


@styled()
def spectrum_figure(spectra: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, styles: Styles) -> Figure:
    """Radial DCT spectra of the changes of one case, one line an attack.

    Args:
        spectra: of each attack, frequencies (cycles a voxel) and amplitudes, as of `slices.radial_spectrum`.
        title: dataset, model and case.
        styles: of `prepared.attack_styles`.
    """
    figure = new_figure(COLUMN, 2.3 + 0.155 * len(spectra))
    axis = figure.subplots()
    for label, (frequencies, amplitudes) in spectra.items():
        style = styles[label]
        axis.plot(frequencies, amplitudes, color=style.color, linestyle=style.dash, marker=style.marker, markevery=4)
    axis.set_yscale("log")
    axis.set_xlabel("radial frequency (cycles a voxel)")
    axis.set_ylabel("rms DCT coefficient (intensity)")
    figure.suptitle(f"{plain(title, 50)}, n = 1")
    axis.grid(axis="y", **GRID)
    legend(figure, [line_handle(styles[label]) for label in spectra], [plain(label) for label in spectra])
    return figure


@styled()
def seam_figure(table: pd.DataFrame, title: str, order: Sequence[str]) -> Figure:
    """Seam energy of each attack with its 95 % interval; at 1 borders of windows are like any other place.

    Args:
        table: of `prepared.intervals` by `label`.
        title: dataset and model.
        order: of the attacks, the first on top.
    """
    shown = [label for label in order if label in set(table["label"])]
    rows = table.set_index("label").loc[shown]
    figure = new_figure(listing_width(shown), 0.9 + 0.16 * len(shown))
    axis = figure.subplots()
    below = np.arange(len(shown))
    error = np.abs(rows[["low", "high"]].to_numpy().T - rows["mean"].to_numpy())
    axis.errorbar(
        rows["mean"], below, xerr=np.nan_to_num(error), fmt="o", color="black", elinewidth=0.7, capsize=1.5, zorder=3
    )
    axis.axvline(1, color=GREY, linestyle="dashed")
    axis.set_yticks(below, [plain(label) for label in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel("seam energy (1: no seam)")
    figure.suptitle(f"{plain(title, 30)}: {_what(table)}, {counted(rows['n'].tolist(), 'cases')}")
    axis.grid(axis="both", **GRID)
    return figure
