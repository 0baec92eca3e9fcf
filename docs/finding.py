"""Draws two pictures from tables of reports/strongest, README's main finding and what more steps take.

`python docs/finding.py`
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from freqbench.reporting.colors import OKABE_ITO
from freqbench.reporting.figures.style import GREY, GRID, MAKER, PAGE, new_figure, use_style

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "strongest" / "README.md"
PICTURE = ROOT / "docs" / "images" / "finding.png"
STEPS_PICTURE = REPORT.with_name("steps.png")
BOUNDS: Mapping[str, tuple[str, str, str]] = {  # the threat model's row, the published attack, the strongest
    "Within the bounds of VAFA": ("dct-quantization-stretched", "vafa", "vafa_opt, jointly"),
    "Within the bounds of SA2": ("the same, rho 0.4", "sa2", "sa2_opt, jointly"),
}
NETWORKS = {"unet": "trained on clean volumes", "unet-vaft": "trained against SA2"}
BARS = {
    "clean volume": GREY,
    "random change": OKABE_ITO[5],
    "published attack": OKABE_ITO[6],
    "strongest attack": OKABE_ITO[1],
}


STEPS = {"10": OKABE_ITO[5], "20": OKABE_ITO[1], "200": GREY}


def table(*heading: str) -> list[list[str]]:
    """Reads the rows of the report's table, and of all that follow, from the heading that begins with these cells."""
    lines = (line.split("|")[1:-1] for line in REPORT.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    rows = [[cell.strip(" *`") for cell in line] for line in lines]
    return rows[next(index for index, row in enumerate(rows) if row[: len(heading)] == [*heading]) :]


def bars() -> dict[tuple[str, str], list[list[float]]]:
    """Reads the foreground DSC x100 of BARS with the ends of its interval, by bounds and network."""
    heading, _, clean, *rows = table("threat model", "attack")
    values = {}
    for title, (bounds, *attacks) in BOUNDS.items():
        first = next(index for index, row in enumerate(rows) if row[0].startswith(bounds))
        of = {row[1]: row for row in (clean, *rows[first : first + 4])}
        for network in NETWORKS:
            cells = [of[name][heading.index(network)] for name in ("clean", "null row: random", *attacks)]
            values[title, network] = [[float(number) for number in re.findall(r"[\d.]+", cell)] for cell in cells]
    return values


def picture() -> Figure:
    """Draws one panel for each set of bounds, and in each the bars of both networks with their intervals."""
    heights = bars()
    with use_style():
        figure = new_figure(PAGE, 2.6)
        for axis, title in zip(figure.subplots(1, len(BOUNDS), sharey=True), BOUNDS, strict=True):
            axis.set_title(title, fontsize=9, fontweight="bold")
            axis.grid(axis="y", **GRID)
            for group, network in enumerate(NETWORKS):
                places = [group * (len(BARS) + 1) + number for number in range(len(BARS))]
                means, low, high = np.transpose(heights[title, network])
                look = {"color": list(BARS.values()), "error_kw": {"elinewidth": 0.8, "capsize": 2}}
                drawn = axis.bar(places, means, 0.9, yerr=(means - low, high - means), **look)
                axis.bar_label(drawn, fmt="%.0f", padding=1, fontsize=8)
            axis.set_xticks([1.5 + group * (len(BARS) + 1) for group in range(len(NETWORKS))], list(NETWORKS.values()))
            axis.tick_params(axis="x", length=0, labelsize=8)
            axis.set_ylim(0, 100)
            handles = list(drawn)
        figure.axes[0].set_ylabel("foreground DSC left (%)\n95 % intervals over patients", fontsize=8)
        figure.legend(handles, list(BARS), loc="outside lower center", ncols=len(BARS), fontsize=8)
    return figure


def steps_picture() -> Figure:
    """Draws the drop of foreground DSC in 10, 20 and 200 steps as three bars, for each threat model and network."""
    heading, _, *rows = table("threat model", "attack", "network")
    rows = rows[: next(index for index, row in enumerate(rows) if row[:1] == heading[:1])]
    named = []
    threat_model = ""
    for row in rows:
        threat_model = row[0].replace("`", "") or threat_model
        named.append((f"{threat_model}, {row[2]}", row))
    with use_style():
        figure = new_figure(PAGE, 4.6)
        axis = figure.subplots()
        for number, (steps, color) in enumerate(STEPS.items()):
            places = [-4 * index - number for index in range(len(named))]
            drops = [float(row[heading.index(steps)]) for _, row in named]
            axis.bar_label(
                axis.barh(places, drops, 0.95, color=color, label=f"{steps} steps"), fmt="%.0f", padding=1, fontsize=5
            )
        axis.set_yticks([-4 * index - 1 for index in range(len(named))], [name for name, _ in named], fontsize=7)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", **GRID)
        axis.set_xlim(0, 100)
        axis.set_xlabel("drop of foreground DSC (points)", fontsize=8)
        figure.legend(loc="outside lower center", ncols=len(STEPS), fontsize=8)
    return figure


if __name__ == "__main__":
    with use_style():
        steps_picture().savefig(STEPS_PICTURE, dpi=150, metadata={"Software": MAKER})
        picture().savefig(PICTURE, dpi=150, metadata={"Software": MAKER})
