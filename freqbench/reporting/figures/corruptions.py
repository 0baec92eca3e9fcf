"""Natural beside adversarial robustness in one figure: drops by severity, by kind and attack, and what both leave."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freqbench.reporting.colors import SeriesStyle
from freqbench.reporting.figures.style import GREY, GRID, PAGE, counted, legend, line_handle, new_figure, plain, styled
from freqbench.reporting.views.natural import GROUPS, Comparison


@styled()
def natural_figure(
    found: Comparison, title: str, rows: Sequence[tuple[str, str]], styles: Mapping[str, SeriesStyle]
) -> Figure:
    """Drop by severity, what is left under corruptions against what attacks leave, and the drop of each row.

    Args:
        found: of `compared`.
        title: the dataset.
        rows: those of `found` that this figure shows.
        styles: of the models.
    """
    groups = [group for group in GROUPS if any(own == group for own, _ in rows)]
    figure = new_figure(PAGE, max(4.2, 1.1 + 0.17 * (len(rows) + len(groups)) + 0.1 * len(found.models)))
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.5])
    _severities(figure.add_subplot(grid[0, 0]), found, styles)
    _against(figure.add_subplot(grid[1, 0]), found, styles)
    _listing(figure.add_subplot(grid[:, 1]), found, rows, groups, styles)
    spread = "mean, 95 % interval" if found.left["low"].notna().any() else "mean (one patient: no interval)"
    cases = counted([found.n], "cases")
    figure.suptitle(f"{plain(title, 40)}: natural beside adversarial robustness, {spread}, {cases}")
    legend(figure, [line_handle(styles[model]) for model in found.models], [plain(model) for model in found.models])
    return figure


def _severities(axis: Axes, found: Comparison, styles: Mapping[str, SeriesStyle]) -> None:
    severities = sorted(found.by_severity["budget"].unique())
    for number, model in enumerate(found.models):
        own = found.by_severity[found.by_severity["target_model"] == model].sort_values("budget")
        nudge = (number - (len(found.models) - 1) / 2) * 0.06
        _points(axis, own["budget"] + nudge, own["mean"], styles[model], own, line=True)
    axis.set_xticks(severities)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.set_xlabel("severity, mean over kinds")
    axis.set_ylabel("drop of DSC (points)")
    axis.grid(axis="y", **GRID)


def _against(axis: Axes, found: Comparison, styles: Mapping[str, SeriesStyle]) -> None:
    natural, attacked = (found.left[found.left["group"] == group].set_index("target_model") for group in GROUPS)
    for model in found.models:
        x, y = natural.loc[[model]], attacked.loc[[model]]
        _points(axis, x["mean"], y["mean"], styles[model], y, across=x)
    values = found.left[["mean", "low", "high"]].to_numpy(float)
    ends = [np.nanmin(values), np.nanmax(values)]
    axis.plot(ends, ends, color=GREY, linestyle="dotted")
    axis.set_xlabel("DSC (%) under corruptions, mean; dotted: equal")
    axis.set_ylabel("DSC (%) under the worst attack")
    axis.grid(axis="both", **GRID)


def _listing(
    axis: Axes,
    found: Comparison,
    rows: Sequence[tuple[str, str]],
    groups: Sequence[str],
    styles: Mapping[str, SeriesStyle],
) -> None:
    """A line a kind or attack, the models' points below each other in it."""
    lines: list[tuple[str, str]] = []
    for group in groups:
        lines += [(group, ""), *(row for row in rows if row[0] == group)]
    height = {line: number for number, line in enumerate(lines)}
    for number, model in enumerate(found.models):
        own = found.by_row[found.by_row["target_model"] == model]
        own = own[[(group, row) in height for group, row in zip(own["group"], own["row"], strict=True)]]
        nudge = (number - (len(found.models) - 1) / 2) * 0.6 / len(found.models)
        y = [height[group, row] + nudge for group, row in zip(own["group"], own["row"], strict=True)]
        _points(axis, own["mean"], pd.Series(y, index=own.index), styles[model], None, across=own)
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.set_yticks(range(len(lines)), [plain(row, 36) or GROUPS[group] for group, row in lines])
    for label, (_, row) in zip(axis.get_yticklabels(), lines, strict=True):
        label.set_fontweight("normal" if row else "bold")
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.set_xlabel("drop of DSC (points), of corruptions the mean over severities")
    axis.grid(axis="both", **GRID)


def _points(
    axis: Axes,
    x: pd.Series,
    y: pd.Series,
    style: SeriesStyle,
    up: pd.DataFrame | None,
    across: pd.DataFrame | None = None,
    line: bool = False,
) -> None:
    axis.errorbar(
        *(x, y),
        xerr=None if across is None else _reach(across),
        yerr=None if up is None else _reach(up),
        color=style.color,
        marker=style.marker,
        linestyle=style.dash if line else "none",
        elinewidth=0.7,
        capsize=1.5,
        zorder=3,
    )


def _reach(table: pd.DataFrame) -> np.ndarray:
    """Of each interval, how far it reaches to either side of the mean; 0 where there is none."""
    reach = np.abs(table[["low", "high"]].to_numpy(float).T - table["mean"].to_numpy(float))
    return np.where(np.isnan(reach), 0.0, reach)
