"""Draws how the drop grows with passes: one curve per attack, loss and number of restarts."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from freqbench.ops.colors import DASHES, SeriesStyle, series_style
from freqbench.reporting.convergence import CURVE, ENOUGH, PLACE, knee, recommended
from freqbench.reporting.figures import style
from freqbench.reporting.figures.style import DROP, RING, counted, legend, log_axis, plain

LARGE = 6.5


@style.styled()
def convergence_figure(table: pd.DataFrame) -> Figure:
    """Draws drop against passes of `convergence.settings`, one panel per dataset, model, threat model and budget.

    Colour and marker are the attack's, the dash is the loss's. A large marker is the knee, a ring the recommended
    setting; several restarts are hollow markers on a thin line.
    """
    groups = list(table.groupby(PLACE, sort=False))
    attacks = {name: series_style(place) for place, name in enumerate(dict.fromkeys(table["attack"]))}
    dashes = {name: DASHES[place % len(DASHES)] for place, name in enumerate(dict.fromkeys(table["loss"]))}
    chosen = recommended(table)
    labels = "passes a window (forward + backward)", DROP
    figure, axes = style.panels(len(groups), 3, (0.5, 1.9), len(attacks) + len(dashes) + 3, labels, sharey=False)
    for axis, (place, panel) in zip(axes, groups, strict=True):
        for _, curve in panel.groupby(CURVE, sort=False):
            _curve(axis, curve, attacks[curve["attack"].iloc[0]], dashes[curve["loss"].iloc[0]])
        ring = chosen[(chosen[PLACE] == list(place)).all(axis=1)]
        axis.plot(ring["passes"], ring["drop"], color="black", zorder=4, clip_on=False, **RING)
        log_axis(axis, panel["passes"])
        axis.xaxis.set_minor_locator(NullLocator())
        dataset, model, threat, budget = place
        axis.set_title(f"{plain(f'{dataset}: {model}', 34)}\n{plain(f'{threat} {budget}', 34)}", loc="left")
        style.drop_axis(axis)
    figure.suptitle(f"Drop against passes, {counted(table['cases'].tolist())}")
    handles = [Line2D([], [], color=look.color, marker=look.marker, linestyle="none") for look in attacks.values()]
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


def _curve(axis: Axes, curve: pd.DataFrame, look: SeriesStyle, dash: str) -> None:
    """Draws one curve: a line with its knee for one restart, hollow markers for several."""
    passes, drops = curve["passes"].to_numpy(), curve["drop"].to_numpy()
    marks: dict[str, Any] = {"color": look.color, "marker": look.marker}
    if curve["restarts"].iloc[0] > 1:
        axis.plot(passes, drops, color=look.color, linestyle=dash, linewidth=0.4, zorder=2)
        axis.plot(passes, drops, mfc="white", mew=0.7, linestyle="none", zorder=2, **marks)
        return
    axis.plot(passes, drops, linestyle=dash, zorder=3, **marks)
    enough = knee(drops.tolist())
    if enough < len(drops) - 1:
        axis.plot(passes[enough], drops[enough], markersize=LARGE, zorder=3, **marks)
