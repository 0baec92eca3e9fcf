"""Draws heat maps with their numbers written in, and networks beside each other: worst case, corruptions, ejection."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from freqbench.analysis.groups import points
from freqbench.analysis.labels import INTENSITY_PARAMETERS
from freqbench.reporting import figure_data
from freqbench.reporting.colors import OKABE_ITO, series_style
from freqbench.reporting.figure_data import Material
from freqbench.reporting.figures import style
from freqbench.reporting.figures.curves import MOST_LISTED, Styles, chunks
from freqbench.reporting.figures.style import COLUMN, DROP, GREY, GRID, PAGE, SCORE, count_text, plain, reach
from freqbench.reporting.views.ejection import REDUCED, fractions, furthest
from freqbench.reporting.views.natural import GROUPS, NaturalComparison, compare_models

SEQUENTIAL = "cividis"  # made for colour-blind eyes; its lightness rises evenly, so that it reads in grey
MOST_MATRICES = 12
LOOSE: dict[str, Any] = {"linestyle": "none", "zorder": 3}
_NOTHING = "#ffffff"
_FRAME = OKABE_ITO[1]


def transfer(material: Material, rows: pd.DataFrame, dataset: str) -> Iterator[Figure | str]:
    """Draws source x target of each attack: mean drop of foreground DSC on one scale; white-box cells have a frame."""
    if not (matrices := figure_data.transfers(rows)):
        yield "no attack was scored on another model than its source"
        return
    drops = np.concatenate([[0.0], *(matrix.to_numpy(float).ravel() for matrix in matrices.values())])
    norm = Normalize(np.nanmin(drops), np.nanmax(drops) or 1)  # from 0, or below it where an attack helped
    counts = rows.groupby(["label", "source_model", "target_model"], observed=True)["case_key"].nunique().tolist()
    for some in chunks(list(matrices.items()), MOST_MATRICES):
        high, wide = some[0][1].shape
        down = -(-len(some) // max(1, int((PAGE - 1.2) / (0.42 * wide + 0.15))))
        across = -(-len(some) // down)
        width = min(PAGE, 1.9 + across * (0.42 * wide + 0.15))
        figure = style.new_figure(max(COLUMN, width), 1.2 + down * (0.3 * high + 0.35))
        axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(some) :]:
            axis.axis("off")
        for axis in axes.flat[len(some) - across : len(some)]:
            axis.tick_params(labelbottom=True)  # some have no axes below them
        for axis, (label, matrix) in zip(axes.flat[: len(some)], some, strict=True):
            image = _heat(axis, matrix, norm)
            axis.set_title(style.heading(label, 8 * wide + 4), fontsize=6)
            for row, source in enumerate(matrix.index):
                for column in np.flatnonzero(matrix.columns == source):
                    axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=_FRAME, lw=1.4, zorder=4))
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=25)
        bar.set_label(DROP)
        bar.outline.set_linewidth(0.5)
        figure.supylabel("source of the volumes", fontsize=7)
        figure.suptitle(f"{plain(dataset, 60)}, {count_text(counts)}; columns: targets; frames: white-box")
        yield figure


def _heat(axis: Axes, matrix: pd.DataFrame, norm: Normalize) -> AxesImage:
    """Draws cells with their numbers and the names of rows and columns; a cell that was never run has a dash."""
    values = matrix.to_numpy(float)
    (rows, columns) = ([plain(name, 16) for name in names] for names in matrix.axes)
    palette = colormaps[SEQUENTIAL].with_extremes(bad=_NOTHING)
    image = axis.imshow(np.ma.masked_invalid(values), cmap=palette, norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        is_dark = np.isfinite(value) and np.dot(palette(norm(value))[:3], (0.299, 0.587, 0.114)) < 0.5
        text = points(value) or "–"
        axis.text(column, row, text, ha="center", va="center", fontsize=5.5, color="white" if is_dark else "black")
    axis.spines[:].set_visible(True)
    axis.tick_params(length=0)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    return image


def natural(material: Material, rows: pd.DataFrame, dataset: str) -> Iterator[Figure | str]:
    """Draws the drop by severity, DSC under corruptions against DSC under attacks, and the drop by each of them."""
    if isinstance(comparison := compare_models(rows), str):
        yield comparison
        return
    names = sorted(material.rows["target_model"].astype(str).unique())
    styles = {name: series_style(place) for place, name in enumerate(names)}
    for some in chunks(comparison.rows, MOST_LISTED):
        groups = [group for group in GROUPS if any(kind == group for kind, _ in some)]
        lines = [line for group in groups for line in [(group, ""), *(row for row in some if row[0] == group)]]
        figure = style.new_figure(PAGE, max(4.2, 1.1 + 0.17 * len(lines) + 0.1 * len(comparison.models)))
        grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.5])
        _severities(figure.add_subplot(grid[0, 0]), comparison, styles)
        _draw_comparison(figure.add_subplot(grid[1, 0]), comparison, styles)
        _listing(figure.add_subplot(grid[:, 1]), comparison, lines, styles)
        words = f"{style.interval_words(comparison.left)}, {count_text([comparison.n])}"
        figure.suptitle(f"{plain(dataset, 40)}: natural beside adversarial robustness, {words}")
        handles = [style.line_handle(styles[model]) for model in comparison.models]
        style.legend(figure, handles, [*map(plain, comparison.models)])
        yield figure


def worst(material: Material, rows: pd.DataFrame, dataset: str) -> Iterator[Figure | str]:
    """Draws DSC after the worst attack against clean: panels by threat model and budget, then all; points: networks."""
    if (table := figure_data.worst_cases(rows)).empty or table["target_model"].nunique() < 2:
        yield "needs an attack with a budget on two networks or more"
        return
    panels = {_set_title(part): part for _, part in table.groupby(["threat_model", "budget_name", "budget"])}
    if len(panels) > 1:
        lowest = table.sort_values("mean", kind="stable").drop_duplicates("target_model")
        panels["the lowest of these"] = lowest.sort_values("target_model", kind="stable")
    styles = {name: series_style(place) for place, name in enumerate(sorted(table["target_model"].unique()))}
    for some in chunks(list(panels.items()), MOST_MATRICES):
        words = (f"{SCORE} without attack", f"{SCORE} under the worst attack")
        figure, axes = style.panels(len(some), 3, (0.5, 1.9), len(styles), words)
        for axis, (title, part) in zip(axes, some, strict=True):
            for model, row in part.groupby("target_model"):
                style.error_bars(axis, row["clean"], row["mean"], styles[str(model)], yerr=reach(row), **LOOSE)
            axis.set_title(plain(title))
            axis.grid(axis="both", **GRID)
        counts = f"{style.interval_words(table)}, {count_text(table['n'].tolist())}"
        figure.suptitle(f"{plain(dataset, 40)}: robustness against clean accuracy, {counts}")
        style.legend(figure, [style.line_handle(look) for look in styles.values()], [*map(plain, styles)])
        yield figure


def _set_title(rows: pd.DataFrame) -> str:
    threat, name, budget = rows[["threat_model", "budget_name", "budget"]].iloc[0]
    return f"{threat}, {name} = {budget:g}{'/255' if name in INTENSITY_PARAMETERS else ''}"


def ejection(material: Material, rows: pd.DataFrame, dataset: str) -> Iterator[Figure | str]:
    """Draws EF after the attack that does most to each patient against EF before: a panel a set, a point a patient;
    null rows hollow. Dashed: REDUCED; grey: class turned. What has no EF, or one below 0, stands at the lower end."""
    if (table := furthest(fractions(rows[rows["is_white_box"]], material.classes)).dropna(subset="budget")).empty:
        yield "no patient has a left ventricle in two cases"
        return
    styles = {name: series_style(place) for place, name in enumerate(sorted(table["target_model"].unique()))}
    low, high = min(0.0, table["clean"].min()) - 3, max(100.0, table[["clean", "attacked"]].max().max()) + 3
    for some in chunks([part for _, part in table.groupby(["threat_model", "budget_name", "budget"])], MOST_MATRICES):
        figure, axes = style.panels(len(some), 4, (0.5, 1.7), len(styles), ("EF without attack (%)", "EF after it (%)"))
        for axis, part in zip(axes, some, strict=True):
            for corner in ((low, REDUCED), (REDUCED, low)):
                size = [REDUCED - low if end < REDUCED else high - REDUCED for end in corner]
                axis.add_patch(Rectangle(corner, *size, color=GREY, alpha=0.18, linewidth=0))
            for (model, is_null), points_of in part.groupby(["target_model", "is_null"]):
                look = styles[model]
                after = points_of["attacked"].fillna(low).clip(lower=low)
                filling = "white" if is_null else look.color
                axis.plot(points_of["clean"], after, color=look.color, marker=look.marker, mfc=filling, **LOOSE)
            for line in (axis.axvline, axis.axhline):
                line(REDUCED, color=GREY, linestyle="dashed", linewidth=0.6)
            axis.set(xlim=(low, high), ylim=(low, high))
            axis.set_title(plain(_set_title(part), 34))
        number = table["patient_id"].nunique()
        figure.suptitle(f"{plain(dataset, 40)}: ejection fraction of {number} patients; grey: turned; hollow: null")
        style.legend(figure, [style.line_handle(look) for look in styles.values()], [*map(plain, styles)])
        yield figure


def _severities(axis: Axes, comparison: NaturalComparison, styles: Styles) -> None:
    for number, model in enumerate(comparison.models):
        rows = comparison.by_severity[comparison.by_severity["target_model"] == model].sort_values("budget")
        nudge = (number - (len(comparison.models) - 1) / 2) * 0.06
        style.error_bars(axis, rows["budget"] + nudge, rows["mean"], styles[model], yerr=reach(rows), zorder=3)
    axis.set_xticks(sorted(comparison.by_severity["budget"].unique()))
    axis.xaxis.set_major_formatter("{x:g}")
    style.drop_axis(axis)
    axis.set(xlabel="severity, mean over kinds", ylabel=DROP)


def _draw_comparison(axis: Axes, comparison: NaturalComparison, styles: Styles) -> None:
    left = comparison.left.set_index(["group", "target_model"])
    for model in comparison.models:
        x, y = (left.loc[[(group, model)]] for group in GROUPS)
        style.error_bars(axis, x["mean"], y["mean"], styles[model], xerr=reach(x), yerr=reach(y), **LOOSE)
    values = comparison.left[["mean", "low", "high"]].to_numpy(float)
    ends = [np.nanmin(values), np.nanmax(values)]
    axis.plot(ends, ends, color=GREY, linestyle="dotted")
    axis.set(xlabel=f"{SCORE} under corruptions, mean; dotted: equal", ylabel=f"{SCORE} under the worst attack")
    axis.grid(axis="both", **GRID)


def _listing(axis: Axes, comparison: NaturalComparison, lines: Sequence[tuple[str, str]], styles: Styles) -> None:
    """Draws one line per kind or attack, with the models' points below each other in it."""
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
