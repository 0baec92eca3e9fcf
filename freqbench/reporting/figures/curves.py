"""Draws points and lines: one series per attack, told apart by colour, marker and dash."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from freqbench.analysis import certificates
from freqbench.reporting import figure_data
from freqbench.reporting.colors import DASHES, SeriesStyle, series_style
from freqbench.reporting.convergence import CURVE, ENOUGH, PLACE, knee, recommend
from freqbench.reporting.figure_data import DISTANCES, Material
from freqbench.reporting.figures import style
from freqbench.reporting.figures.style import DROP, GREY, GRID, RING, SCORE, count_text, legend, line_handle, plain

MOST_LISTED = 30  # attacks per figure; further ones go into the next
KNEE = 6.5  # size of its marker
Styles = Mapping[str, SeriesStyle]


def chunks(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """Yields the items of each figure, at most `most` of them."""
    yield from (items[start : start + most] for start in range(0, len(items), most))


def smallest(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Iterator[Figure | str]:
    """Draws the share of patients that fall against the size of the change, one panel per norm that is made small."""
    table = figure_data.smallest_sizes(rows)
    if (found := table[np.isfinite(table["size"])]).empty:
        yield "no attack found a smallest change"
        return
    groups = list(table.groupby("threat_model", sort=False))
    end = 1.05 * found["size"].max()
    styles = _styles(material, table, "label")
    figure, axes = style.panels(len(groups), 4, (0.7, 1.6), len(styles), ("size of the change (1/255)", "patients (%)"))
    for axis, (threat, panel) in zip(axes, groups, strict=True):
        for label, series in panel.groupby("label", sort=False):
            sizes = np.sort(series["size"])
            look = styles[str(label)]
            sizes = np.insert(sizes[np.isfinite(sizes)], 0, 0.0)
            fallen = 100 * np.arange(len(sizes)) / len(series)
            axis.step([*sizes, end], [*fallen, fallen[-1]], where="post", color=look.color, linestyle=look.dash)
        patients = count_text(panel.groupby("label")["patient_id"].nunique().tolist()).replace("case", "patient")
        axis.set_title(f"{plain(threat)}, {patients}", loc="left")
        axis.set_ylim(-2, 102)
        axis.grid(axis="y", **GRID)
    figure.suptitle(plain(f"{dataset}: patients that lose half of their Dice on {model}", 60))
    legend(figure, [*map(line_handle, styles.values())], [*map(plain, styles)])
    yield figure


def _styles(material: Material, table: pd.DataFrame, column: str) -> dict[str, SeriesStyle]:
    return {name: series_style(place) for name, place in material.places[column].items() if name in set(table[column])}


def tradeoff(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Iterator[Figure | str]:
    """Draws DSC against SSIM, LPIPS and L2, a panel each: a marker a threat model, a line an attack's budgets."""
    table = figure_data.means(rows, ("dsc_foreground", *DISTANCES))
    if not (columns := [name for name in DISTANCES if table[name].notna().any()]):
        yield "no distance was measured inside the body"
        return
    styles = _styles(material, table, "family")
    kinds = _styles(material, table, "threat_model")
    # Names in full: a scope often stands in the middle of one.
    texts = [f"threat model {plain(kind)}" for kind in kinds]
    texts += [*(f"{number} {plain(name, 80)}" for number, name in enumerate(styles, 1)), "clean"]
    figure = style.new_figure(style.PAGE, 2.5 + 0.14 * len(texts) / style.legend_columns(texts, style.PAGE))
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    clean = rows.groupby("case_key", observed=True)["dsc_foreground_clean"].first().mean()  # each case counted once
    for axis, column in zip(axes, columns, strict=True):
        axis.axhline(float(clean), color=GREY, linestyle="dotted")
        for number, (family, look) in enumerate(styles.items(), 1):
            series = table[table["family"] == family].sort_values("budget", kind="stable")
            for threat, part in series.groupby("threat_model", sort=False):
                _draw_numbered(axis, part[column], part["dsc_foreground"], number, look, kinds[str(threat)].marker)
        axis.set_xlabel(DISTANCES[column])
        axis.grid(axis="x", **GRID)
        if column == "ssim_body":
            axis.invert_xaxis()
    axes[0].set_ylabel(SCORE)
    title = plain(f"{dataset}: attacks on {model}", 60)
    figure.suptitle(f"{title}, {count_text(table['n'].tolist())}; grid lines: equal distance; more change to the right")
    shape: dict[str, Any] = {"color": "black", "linestyle": "none", "mfc": "w"}
    handles = [Line2D([], [], marker=look.marker, **shape) for look in kinds.values()]
    handles += [Line2D([], [], color=look.color) for look in styles.values()]
    handles.append(Line2D([], [], color=GREY, linestyle="dotted"))
    legend(figure, handles, texts)
    yield figure


def _draw_numbered(axis: Axes, x: pd.Series, y: pd.Series, number: int, series: SeriesStyle, marker: str) -> None:
    """Draws the points of one attack, joined, each with the attack's number in the legend."""
    axis.plot(x, y, color=series.color, linestyle=series.dash, linewidth=0.7, zorder=2)
    height = 3 + number / 100  # what covers a marker covers its number too
    shape: dict[str, Any] = {"marker": marker, "markersize": 8, "mfc": "white", "mec": series.color, "mew": 0.9}
    axis.plot(x, y, linestyle="none", zorder=height, **shape)
    for left, top in zip(x, y, strict=True):
        if np.isfinite(left) and np.isfinite(top):
            axis.annotate(str(number), (left, top), ha="center", va="center", fontsize=4.5, zorder=height)


def distance(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Iterator[Figure | str]:
    """Draws drop against L2 inside the body, a panel a threat model; 95 % intervals over patients; null rows hollow."""
    if (table := figure_data.drops_by_distance(rows)).empty:
        yield "no attack has both an L2 inside the body and a foreground DSC"
        return
    groups = list(table.groupby("threat_model", sort=False))
    styles = _styles(material, table, "family")
    figure, axes = style.panels(len(groups), 3, (0.7, 1.8), len(styles), (DISTANCES["l2_body"], DROP))
    for axis, (threat, panel) in zip(axes, groups, strict=True):
        for family, series in panel.groupby("family", sort=False):
            series = series.sort_values("budget", kind="stable")
            look = styles[str(family)]
            filling = "white" if series["is_null"].any() else look.color
            thin: dict[str, Any] = {"linewidth": 0.7, "elinewidth": 0.5, "capsize": 1.2, "mfc": filling}
            style.error_bars(axis, series["l2_body"], series["drop"], look, yerr=style.reach(series, "drop"), **thin)
        axis.set_title(f"{plain(threat)}, {count_text(panel['n'].tolist())}", loc="left")
        axis.set_xlim(0, 1.08 * max(panel["l2_body"].max(), 1e-6))
        style.drop_axis(axis, table["drop"], grid="both")
    figure.suptitle(f"{plain(f'{dataset}: attacks on {model}', 60)}: {style.interval_words(table)}; hollow: null rows")
    nulls = set(table.loc[table["is_null"], "family"])
    fills = {family: "white" if family in nulls else look.color for family, look in styles.items()}
    legend(figure, [line_handle(look, mfc=fills[family]) for family, look in styles.items()], [*map(plain, styles)])
    yield figure


def factors(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Iterator[Figure | str]:
    """Draws drop against one parameter of an attack at a time, a panel each; a ring marks the shared setting."""
    if (table := figure_data.factors(rows)).empty:
        yield "no attack was run with two of its parameters changed one at a time"
        return
    groups = list(table.groupby(["attack", "factor"], sort=False))
    looks = {name: series_style(place) for place, name in enumerate(dict.fromkeys(table["attack"]))}
    figure, axes = style.panels(len(groups), 4, (0.5, 1.5), len(looks) + 1, ("", DROP))
    for axis, ((attack, factor), panel) in zip(axes, groups, strict=True):
        places = np.arange(len(panel))
        style.error_bars(axis, places, panel["mean"], looks[attack], yerr=style.reach(panel), linestyle="none")
        axis.plot(places[panel["is_common"]], panel["mean"][panel["is_common"]], color="black", **RING)
        axis.set_xticks(places, [plain(value.strip('"'), 12) for value in panel["value"]])
        axis.set_xlim(-0.5, len(panel) - 0.5)
        axis.set_title(plain(f"{attack}: {factor}", 30), loc="left")
        style.drop_axis(axis, table["mean"])
    title = plain(f"{dataset}: attacks on {model}", 60 if figure.get_figwidth() == style.PAGE else 36)
    figure.suptitle(f"{title}, {count_text(table['n'].astype(int).tolist())}: {style.interval_words(table)}")
    handles = [*map(line_handle, looks.values()), Line2D([], [], color="black", **RING)]
    legend(figure, handles, [*map(plain, looks), "the setting that the others differ from"])
    yield figure


@style.use_style()
def bounds_figure(table: pd.DataFrame) -> Figure:
    """Draws `certificates.means`: certified and attacked DSC against the radius, shaded between, one panel per kind."""
    groups = list(table.groupby(certificates.PLACE, sort=False))
    looks = {"clean": series_style(0), "certified": series_style(1), "attacked": series_style(2)}
    figure, axes = style.panels(len(groups), 3, (0.5, 1.7), 3, ("norm of the change", SCORE))
    for axis, ((dataset, model, _, kind, sigma), panel) in zip(axes, groups, strict=True):
        for name, look in looks.items():
            axis.plot(panel["radius"], panel[name], color=look.color, marker=look.marker, linestyle=look.dash)
        axis.fill_between(panel["radius"], panel["certified"], panel["attacked"], color=GREY, alpha=0.25, linewidth=0)
        axis.set_title(f"{plain(f'{dataset}: {model}', 34)}\n{plain(f'{kind}, sigma {sigma:.4g}', 34)}", loc="left")
        axis.grid(axis="y", **GRID)
    figure.suptitle(f"Certified at least, attacked at most, {count_text(table['cases'].tolist())}")
    texts = ["median without a change", "certified at least", "attacked at most"]
    legend(figure, [*map(line_handle, looks.values())], texts)
    return figure


@style.use_style()
def convergence_figure(table: pd.DataFrame) -> Figure:
    """Draws drop against passes of `convergence.settings`, a panel a dataset, model, threat model and budget. Colour
    and marker: attack; dash: loss; large marker: the knee; ring: recommended; hollow: restarts."""
    groups = list(table.groupby(PLACE, sort=False))
    attacks = {name: series_style(place) for place, name in enumerate(dict.fromkeys(table["attack"]))}
    dashes = {name: DASHES[place % len(DASHES)] for place, name in enumerate(dict.fromkeys(table["loss"]))}
    chosen = recommend(table)
    labels = "passes a window (forward + backward)", DROP
    figure, axes = style.panels(len(groups), 3, (0.5, 1.9), len(attacks) + len(dashes) + 3, labels, sharey=False)
    for axis, (place, panel) in zip(axes, groups, strict=True):
        for _, curve in panel.groupby(CURVE, sort=False):
            look = attacks[curve["attack"].iloc[0]]
            dash = dashes[curve["loss"].iloc[0]]
            passes = curve["passes"].to_numpy()
            drops = curve["drop"].to_numpy()
            enough = knee(curve["drop"].tolist())
            marks: dict[str, Any] = {"color": look.color, "marker": look.marker}
            if curve["restarts"].iloc[0] > 1:
                axis.plot(passes, drops, color=look.color, linestyle=dash, linewidth=0.4, zorder=2)
                axis.plot(passes, drops, mfc="white", mew=0.7, linestyle="none", zorder=2, **marks)
                continue
            axis.plot(passes, drops, linestyle=dash, zorder=3, **marks)
            if enough < len(drops) - 1:
                axis.plot(passes[enough], drops[enough], markersize=KNEE, zorder=3, **marks)
        ring = chosen[(chosen[PLACE] == list(place)).all(axis=1)]
        axis.plot(ring["passes"], ring["drop"], color="black", zorder=4, clip_on=False, **RING)
        style.log_axis(axis, panel["passes"])
        axis.xaxis.set_minor_locator(NullLocator())
        dataset, model, threat, budget = place
        axis.set_title(f"{plain(f'{dataset}: {model}', 34)}\n{plain(f'{threat} {budget}', 34)}", loc="left")
        style.drop_axis(axis)
    figure.suptitle(f"Drop against passes, {count_text(table['cases'].tolist())}")
    handles = [Line2D([], [], color=look.color, marker=look.marker, linestyle="none") for look in attacks.values()]
    handles += [Line2D([], [], color="black", linestyle=dash) for dash in dashes.values()]
    texts = [*map(plain, attacks), *(f"loss {plain(loss)}" if loss else "loss of its own" for loss in dashes)]
    handles += [Line2D([], [], color="black", marker="o", linestyle="none", markersize=KNEE)]
    handles += [Line2D([], [], color="black", **RING)]
    texts += [f"more passes add less than {ENOUGH:g}", "recommended"]
    if (table["restarts"] > 1).any():
        handles.append(Line2D([], [], color="black", marker="s", mfc="white", linestyle="none"))
        texts.append(" or ".join(f"{n}" for n in sorted(table["restarts"].unique()) if n > 1) + " restarts")
    legend(figure, handles, texts)
    return figure
