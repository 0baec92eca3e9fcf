"""Figures of the drop of foreground DSC: against passes, and against the distance inside the body."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from freqbench.reporting.colors import DASHES, series_style
from freqbench.reporting.convergence import CURVE, ENOUGH, PLACE, knee, recommended
from freqbench.reporting.figures.style import COLUMN, GREY, GRID, PAGE, counted, legend, new_figure, plain, styled

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
    for axis in axes[-1]:
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
