"""Draws points and lines: one series per attack or network, told apart by colour, marker and dash."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from freqbench.analysis.labels import INTENSITY_PARAMETERS
from freqbench.reporting import figure_data
from freqbench.reporting.colors import SeriesStyle, series_style
from freqbench.reporting.figure_data import Material
from freqbench.reporting.figures import style
from freqbench.reporting.figures.style import DROP, GREY, GRID, count_text, legend, line_handle, plain
from freqbench.reporting.views.ejection import REDUCED, fractions, furthest

L2 = "L2 of the change inside the body (intensity)"


def distance(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Figure | str:
    """Draws drop against L2 inside the body, a panel a threat model; 95 % intervals over patients; null rows hollow.
    The `rows` are white-box, of one `dataset` and source `model`; `material` tells families apart as in all figures."""
    if (table := figure_data.drops_by_distance(rows)).empty:
        return "no attack has both an L2 inside the body and a foreground DSC"
    groups = list(table.groupby("threat_model", sort=False))
    shown = set(table["family"])
    styles = {name: series_style(place) for name, place in material.families.items() if name in shown}
    figure, axes = style.panels(len(groups), 3, (0.7, 1.8), len(styles), (L2, DROP))
    drops = table["drop"]
    bottom = min(-5.0, 1.1 * drops.min())
    top = min(100.0, 1.1 * max(drops.max(), 10.0) + 5)
    for axis, (threat, panel) in zip(axes, groups, strict=True):
        for family, series in panel.groupby("family", sort=False):
            _draw_series(axis, series.sort_values("budget", kind="stable"), styles[str(family)])
        axis.set_title(f"{plain(threat)}, {count_text(panel['n'].tolist())}", loc="left")
        axis.set_xlim(0, 1.08 * max(panel["l2_body"].max(), 1e-6))
        axis.grid(axis="both", **GRID)
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.set_ylim(bottom, top)
    figure.suptitle(f"{plain(f'{dataset}: attacks on {model}', 60)}: {style.interval_words(table)}; hollow: null rows")
    nulls = set(table.loc[table["is_null"], "family"])
    fills = {family: "white" if family in nulls else look.color for family, look in styles.items()}
    legend(figure, [line_handle(look, mfc=fills[family]) for family, look in styles.items()], [*map(plain, styles)])
    return figure


def _draw_series(axis: Axes, series: pd.DataFrame, look: SeriesStyle) -> None:
    """Draws one attack over its budgets, with intervals; null rows hollow."""
    color = look.color
    filling = "white" if series["is_null"].any() else color
    shape: dict[str, Any] = {"color": color, "marker": look.marker, "linestyle": look.dash, "mfc": filling}
    thin: dict[str, Any] = {"linewidth": 0.7, "elinewidth": 0.5, "capsize": 1.2}
    axis.errorbar(series["l2_body"], series["drop"], yerr=style.reach(series), **shape, **thin)


def ejection(material: Material, rows: pd.DataFrame, dataset: str) -> Figure | str:
    """Draws EF after the attack that does most to each patient against EF before, of `rows` of one `dataset`, with the
    class records of `material`: a panel a set, a point a patient; null rows hollow. Dashed: REDUCED; grey: class
    turned. What has no EF, or one below 0, stands at the lower end."""
    if (table := furthest(fractions(rows[rows["is_white_box"]], material.classes)).dropna(subset="budget")).empty:
        return "no patient has a left ventricle in two cases"
    styles = {name: series_style(place) for place, name in enumerate(sorted(table["target_model"].unique()))}
    low = min(0.0, table["clean"].min()) - 3
    high = max(100.0, table[["clean", "attacked"]].max().max()) + 3
    sets = [part for _, part in table.groupby(["threat_model", "budget_name", "budget"])]
    figure, axes = style.panels(len(sets), 4, (0.5, 1.7), len(styles), ("EF without attack (%)", "EF after it (%)"))
    for axis, part in zip(axes, sets, strict=True):
        for corner in ((low, REDUCED), (REDUCED, low)):
            size = [REDUCED - low if end < REDUCED else high - REDUCED for end in corner]
            axis.add_patch(Rectangle(corner, *size, color=GREY, alpha=0.18, linewidth=0))
        for (model, is_null), points_of in part.groupby(["target_model", "is_null"]):
            look = styles[model]
            after = points_of["attacked"].fillna(low).clip(lower=low)
            loose: dict[str, Any] = {"linestyle": "none", "zorder": 3, "mfc": "white" if is_null else look.color}
            axis.plot(points_of["clean"], after, color=look.color, marker=look.marker, **loose)
        for line in (axis.axvline, axis.axhline):
            line(REDUCED, color=GREY, linestyle="dashed", linewidth=0.6)
        axis.set(xlim=(low, high), ylim=(low, high))
        axis.set_title(plain(_set_title(part), 34))
    number = table["patient_id"].nunique()
    figure.suptitle(f"{plain(dataset, 40)}: ejection fraction of {number} patients; grey: turned; hollow: null")
    legend(figure, [*map(line_handle, styles.values())], [*map(plain, styles)])
    return figure


def _set_title(rows: pd.DataFrame) -> str:
    threat, name, budget = rows[["threat_model", "budget_name", "budget"]].iloc[0]
    return f"{threat}, {name} = {budget:g}{'/255' if name in INTENSITY_PARAMETERS else ''}"
