"""Draws points and lines: one series per attack or network, told apart by colour, marker and dash."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from freqbench.analysis import certificates
from freqbench.analysis.labels import INTENSITY_PARAMETERS
from freqbench.reporting import figure_data
from freqbench.reporting.colors import DASHES, series_style
from freqbench.reporting.convergence import CURVE, ENOUGH, PLACE, knee, recommend
from freqbench.reporting.figure_data import Material
from freqbench.reporting.figures import style
from freqbench.reporting.figures.style import DROP, GREY, GRID, RING, SCORE, count_text, legend, line_handle, plain
from freqbench.reporting.views.ejection import REDUCED, fractions, furthest

KNEE = 6.5  # size of its marker
L2 = "L2 of the change inside the body (intensity)"


def distance(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Figure | str:
    """Draws drop against L2 inside the body, a panel a threat model; 95 % intervals over patients; null rows hollow."""
    if (table := figure_data.drops_by_distance(rows)).empty:
        return "no attack has both an L2 inside the body and a foreground DSC"
    groups = list(table.groupby("threat_model", sort=False))
    shown = set(table["family"])
    styles = {name: series_style(place) for name, place in material.families.items() if name in shown}
    figure, axes = style.panels(len(groups), 3, (0.7, 1.8), len(styles), (L2, DROP))
    for axis, (threat, panel) in zip(axes, groups, strict=True):
        for family, series in panel.groupby("family", sort=False):
            series, look = series.sort_values("budget", kind="stable"), styles[str(family)]
            filling = "white" if series["is_null"].any() else look.color
            shape: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": look.dash, "mfc": filling}
            thin: dict[str, Any] = {"linewidth": 0.7, "elinewidth": 0.5, "capsize": 1.2}
            axis.errorbar(series["l2_body"], series["drop"], yerr=style.reach(series), **shape, **thin)
        axis.set_title(f"{plain(threat)}, {count_text(panel['n'].tolist())}", loc="left")
        axis.set_xlim(0, 1.08 * max(panel["l2_body"].max(), 1e-6))
        style.drop_axis(axis, table["drop"], grid="both")
    figure.suptitle(f"{plain(f'{dataset}: attacks on {model}', 60)}: {style.interval_words(table)}; hollow: null rows")
    nulls = set(table.loc[table["is_null"], "family"])
    fills = {family: "white" if family in nulls else look.color for family, look in styles.items()}
    legend(figure, [line_handle(look, mfc=fills[family]) for family, look in styles.items()], [*map(plain, styles)])
    return figure


def ejection(material: Material, rows: pd.DataFrame, dataset: str) -> Figure | str:
    """Draws EF after the attack that does most to each patient against EF before: a panel a set, a point a patient;
    null rows hollow. Dashed: REDUCED; grey: class turned. What has no EF, or one below 0, stands at the lower end."""
    if (table := furthest(fractions(rows[rows["is_white_box"]], material.classes)).dropna(subset="budget")).empty:
        return "no patient has a left ventricle in two cases"
    styles = {name: series_style(place) for place, name in enumerate(sorted(table["target_model"].unique()))}
    low, high = min(0.0, table["clean"].min()) - 3, max(100.0, table[["clean", "attacked"]].max().max()) + 3
    sets = [part for _, part in table.groupby(["threat_model", "budget_name", "budget"])]
    figure, axes = style.panels(len(sets), 4, (0.5, 1.7), len(styles), ("EF without attack (%)", "EF after it (%)"))
    for axis, part in zip(axes, sets, strict=True):
        for corner in ((low, REDUCED), (REDUCED, low)):
            size = [REDUCED - low if end < REDUCED else high - REDUCED for end in corner]
            axis.add_patch(Rectangle(corner, *size, color=GREY, alpha=0.18, linewidth=0))
        for (model, is_null), points_of in part.groupby(["target_model", "is_null"]):
            look, after = styles[model], points_of["attacked"].fillna(low).clip(lower=low)
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
            look, dash = attacks[curve["attack"].iloc[0]], dashes[curve["loss"].iloc[0]]
            passes, drops, enough = curve["passes"].to_numpy(), curve["drop"].to_numpy(), knee(curve["drop"].tolist())
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
