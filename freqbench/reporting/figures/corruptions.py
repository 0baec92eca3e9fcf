"""Draws natural beside adversarial robustness: drops by severity, kind and attack, and the DSC that both leave."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freqbench.ops.colors import series_style
from freqbench.reporting.figure_data import Material
from freqbench.reporting.figures import style
from freqbench.reporting.figures.curves import MOST_LISTED, Styles, chunks
from freqbench.reporting.figures.style import DROP, GREY, GRID, PAGE, SCORE, counted, legend, line_handle, plain, reach
from freqbench.reporting.views.natural import GROUPS, Comparison, compared

LOOSE: dict[str, Any] = {"linestyle": "none", "zorder": 3}


def natural(material: Material, rows: pd.DataFrame, dataset: str) -> Iterator[Figure | str]:
    """Draws the drop by severity, DSC under corruptions against DSC under attacks, and the drop by each of them."""
    comparison = compared(rows)
    if isinstance(comparison, str):
        yield comparison
        return
    names = sorted(material.rows["target_model"].astype(str).unique())
    styles = {name: series_style(place) for place, name in enumerate(names)}
    for some in chunks(comparison.rows, MOST_LISTED):
        groups = [group for group in GROUPS if any(kind == group for kind, _ in some)]
        height = max(4.2, 1.1 + 0.17 * (len(some) + len(groups)) + 0.1 * len(comparison.models))
        figure = style.new_figure(PAGE, height)
        grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.5])
        _severities(figure.add_subplot(grid[0, 0]), comparison, styles)
        _against(figure.add_subplot(grid[1, 0]), comparison, styles)
        _listing(figure.add_subplot(grid[:, 1]), comparison, some, groups, styles)
        words = f"{style.interval_words(comparison.left)}, {counted([comparison.n])}"
        figure.suptitle(f"{plain(dataset, 40)}: natural beside adversarial robustness, {words}")
        legend(figure, [line_handle(styles[model]) for model in comparison.models], [*map(plain, comparison.models)])
        yield figure


def _severities(axis: Axes, comparison: Comparison, styles: Styles) -> None:
    for number, model in enumerate(comparison.models):
        rows = comparison.by_severity[comparison.by_severity["target_model"] == model].sort_values("budget")
        nudge = (number - (len(comparison.models) - 1) / 2) * 0.06
        style.error_bars(axis, rows["budget"] + nudge, rows["mean"], styles[model], yerr=reach(rows), zorder=3)
    axis.set_xticks(sorted(comparison.by_severity["budget"].unique()))
    axis.xaxis.set_major_formatter("{x:g}")
    style.drop_axis(axis)
    axis.set(xlabel="severity, mean over kinds", ylabel=DROP)


def _against(axis: Axes, comparison: Comparison, styles: Styles) -> None:
    natural, attacked = (
        comparison.left[comparison.left["group"] == group].set_index("target_model") for group in GROUPS
    )
    for model in comparison.models:
        x, y = natural.loc[[model]], attacked.loc[[model]]
        style.error_bars(axis, x["mean"], y["mean"], styles[model], xerr=reach(x), yerr=reach(y), **LOOSE)
    values = comparison.left[["mean", "low", "high"]].to_numpy(float)
    ends = [np.nanmin(values), np.nanmax(values)]
    axis.plot(ends, ends, color=GREY, linestyle="dotted")
    axis.set(xlabel=f"{SCORE} under corruptions, mean; dotted: equal", ylabel=f"{SCORE} under the worst attack")
    axis.grid(axis="both", **GRID)


def _listing(
    axis: Axes, comparison: Comparison, rows: Sequence[tuple[str, str]], groups: Sequence[str], styles: Styles
) -> None:
    """Draws one line per kind or attack, with the models' points below each other in it."""
    lines = [line for group in groups for line in [(group, ""), *(row for row in rows if row[0] == group)]]
    height = {line: number for number, line in enumerate(lines)}
    for number, model in enumerate(comparison.models):
        part = comparison.by_row[comparison.by_row["target_model"] == model]
        part = part[[place in height for place in zip(part["group"], part["row"], strict=True)]]
        nudge = (number - (len(comparison.models) - 1) / 2) * 0.6 / len(comparison.models)
        y = [height[place] + nudge for place in zip(part["group"], part["row"], strict=True)]
        style.error_bars(axis, part["mean"], y, styles[model], xerr=reach(part), **LOOSE)
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.set_yticks(range(len(lines)), [plain(row, 36) or GROUPS[group] for group, row in lines])
    for label, (_, row) in zip(axis.get_yticklabels(), lines, strict=True):
        label.set_fontweight("normal" if row else "bold")
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.set_xlabel(f"{DROP}, of corruptions the mean over severities")
    axis.grid(axis="both", **GRID)
