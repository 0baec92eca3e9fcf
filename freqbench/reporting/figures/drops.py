"""Figures of the drop of foreground DSC: against passes, and against the distance inside the body."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from freqbench.reporting.colors import DASHES, SeriesStyle, series_style
from freqbench.reporting.convergence import CURVE, ENOUGH, PLACE, knee, recommended
from freqbench.reporting.figures.style import (
    COLUMN,
    GREY,
    GRID,
    PAGE,
    counted,
    legend,
    line_handle,
    new_figure,
    plain,
    styled,
)
from freqbench.reporting.prepared import DISTANCES

ACROSS = 3  # panels beside each other
LARGE = 6.5
RING: dict[str, Any] = {"marker": "o", "mfc": "none", "mew": 0.8, "markersize": 10, "linestyle": "none"}
DROP = "drop of DSC fg (points)"


@styled()
def convergence_figure(table: pd.DataFrame) -> Figure:
    """Drop against passes, one panel a dataset, model, threat model and budget, one line an attack and loss.

    Colour and marker are the attack's, the dash is the loss's. A large marker is the knee, a ring the recommended
    setting; several restarts are hollow markers on a thin line.

    Args:
        table: of `convergence.settings`.
    """
    panels = list(table.groupby(PLACE, sort=False))
    attacks = {name: series_style(place) for place, name in enumerate(dict.fromkeys(table["attack"]))}
    dashes = {name: DASHES[place % len(DASHES)] for place, name in enumerate(dict.fromkeys(table["loss"]))}
    chosen = recommended(table)
    across = min(len(panels), ACROSS)
    down = -(-len(panels) // across)
    width = COLUMN if across == 1 else PAGE
    count = len(attacks) + len(dashes) + 3
    figure = new_figure(width, 0.5 + 1.9 * down + 0.14 * count / (1 if width == COLUMN else 3))
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (place, panel) in zip(axes.flat[: len(panels)], panels, strict=True):
        for _, curve in panel.groupby(CURVE, sort=False):
            first = curve.iloc[0]
            _curve(axis, curve, attacks[first["attack"]].color, attacks[first["attack"]].marker, dashes[first["loss"]])
        ring = chosen[(chosen[PLACE] == list(place)).all(axis=1)]
        axis.plot(ring["passes"], ring["drop"], color="black", zorder=4, clip_on=False, **RING)
        _passes_axis(axis, panel["passes"])
        dataset, model, threat, budget = place
        axis.set_title(f"{plain(f'{dataset}: {model}', 34)}\n{plain(f'{threat} {budget}', 34)}", loc="left")
        axis.grid(axis="y", **GRID)
        axis.axhline(0, color=GREY, linewidth=0.6)
    for axis in axes[:, 0]:
        axis.set_ylabel(DROP)
    for axis in _lowest(axes, len(panels)):
        axis.set_xlabel("passes a window (forward + backward)")
    figure.suptitle(f"Drop against passes, {counted(table['cases'].tolist(), 'cases')}")
    handles = [Line2D([], [], color=style.color, marker=style.marker, linestyle="none") for style in attacks.values()]
    handles += [Line2D([], [], color="black", linestyle=dash) for dash in dashes.values()]
    texts = [*map(plain, attacks), *(f"loss {plain(loss)}" if loss else "loss of its own" for loss in dashes)]
    handles += [Line2D([], [], color="black", marker="o", linestyle="none", markersize=LARGE)]
    handles += [Line2D([], [], color="black", **RING)]
    texts += [f"more passes add less than {ENOUGH:g}", "recommended"]
    if (table["restarts"] > 1).any():
        handles.append(Line2D([], [], color="black", marker="s", mfc="white", linestyle="none"))
        texts.append(" or ".join(f"{n}" for n in sorted(table["restarts"].unique()) if n > 1) + " restarts")
    legend(figure, handles, texts)
    return figure


def _lowest(axes: np.ndarray, count: int) -> list[Axes]:
    """The lowest panel of each column, of as many as there are."""
    return list(axes.flat[max(count - axes.shape[1], 0) : count])


def _curve(axis: Axes, curve: pd.DataFrame, color: str, marker: str, dash: str) -> None:
    """One curve: a line for one restart with its knee, hollow markers for several."""
    passes, drops = curve["passes"].to_numpy(), curve["drop"].to_numpy()
    if curve["restarts"].iloc[0] > 1:
        axis.plot(passes, drops, color=color, linestyle=dash, linewidth=0.4, zorder=2)
        axis.plot(passes, drops, color=color, marker=marker, mfc="white", mew=0.7, linestyle="none", zorder=2)
        return
    axis.plot(passes, drops, color=color, marker=marker, linestyle=dash, zorder=3)
    enough = knee(drops.tolist())
    if enough < len(drops) - 1:
        axis.plot(passes[enough], drops[enough], color=color, marker=marker, markersize=LARGE, zorder=3)


def _passes_axis(axis: Axes, passes: pd.Series) -> None:
    """Logarithmic, with plain numbers."""
    axis.set_xscale("log")
    spread = np.log10(passes.max() / passes.min())
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if spread < 2 else (1,)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter("{x:g}")


@styled()
def distance_figure(table: pd.DataFrame, title: str, families: Mapping[str, int]) -> Figure:
    """Drop against L2 inside the body, one panel a threat model; budgets of an attack are joined, null rows hollow.

    Bars are 95 % intervals over patients, cut at the panel's edge: a mean DSC cannot fall by more than it was.

    Args:
        table: of `distances.drops_by_distance`.
        title: dataset and model.
        families: of `prepared.places`.
    """
    panels = list(table.groupby("threat_model", sort=False))
    shown = [family for family in families if family in set(table["family"])]
    across = min(len(panels), ACROSS)
    down = -(-len(panels) // across)
    width = COLUMN if across == 1 else PAGE
    figure = new_figure(width, 0.7 + 1.8 * down + 0.14 * len(shown) / (1 if width == COLUMN else 3))
    axes = figure.subplots(down, across, sharey=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (threat, panel) in zip(axes.flat[: len(panels)], panels, strict=True):
        for family, series in panel.groupby("family", sort=False):
            _distances(axis, series.sort_values("budget", kind="stable"), series_style(families[str(family)]))
        axis.set_title(f"{plain(threat)}, {counted(panel['n'].tolist(), 'cases')}", loc="left")
        axis.set_xlim(0, 1.08 * max(panel["l2_body"].max(), 1e-6))
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.grid(axis="both", **GRID)
    for axis in _lowest(axes, len(panels)):
        axis.set_xlabel(DISTANCES["l2_body"])
    axes[0, 0].set_ylim(min(-5.0, 1.1 * table["drop"].min()), min(100.0, 1.1 * max(table["drop"].max(), 10.0) + 5))
    for axis in axes[:, 0]:
        axis.set_ylabel(DROP)
    what = "mean, 95 % interval" if table["low"].notna().any() else "mean (one patient: no interval)"
    figure.suptitle(f"{plain(title, 60)}: {what}; hollow: null rows")
    nulls = set(table.loc[table["is_null"], "family"])
    handles = [line_handle(series_style(families[family])) for family in shown]
    for handle, family in zip(handles, shown, strict=True):
        handle.set_markerfacecolor("white" if family in nulls else handle.get_color())
    legend(figure, handles, [plain(family) for family in shown])
    return figure


def _distances(axis: Axes, series: pd.DataFrame, style: SeriesStyle) -> None:
    """One attack at its budgets."""
    error = np.abs(series[["low", "high"]].to_numpy().T - series["drop"].to_numpy())
    axis.errorbar(
        *(series["l2_body"], series["drop"]),
        yerr=np.nan_to_num(error),
        color=style.color,
        marker=style.marker,
        mfc="white" if series["is_null"].any() else style.color,
        linestyle=style.dash,
        linewidth=0.7,
        elinewidth=0.5,
        capsize=1.2,
    )
