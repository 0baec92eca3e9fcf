"""Sets what is certified of randomised networks beside what attacks leave of them."""

from collections import defaultdict
from typing import Any

import pandas as pd

from freqbench.analysis import certificates
from freqbench.analysis.certificates import ALPHA
from freqbench.core.errors import UserError
from freqbench.reporting.render import Section

SHOWN = {certificates.SHOWN: "Foreground DSC", "nsd": "Normalised surface Dice"}
HOW = (
    "x100, medians over the draws of a randomised network (defence `smoothing`), means over cases. "
    "`at least`: no change of this kind and of norm `radius` or less leaves a lower median, for an attacker who does "
    "not know the draw; `at most`: the median that the attack `ball` leaves at this radius. The truth lies between "
    "the two, and `gap` is how little is known. The statement is about the randomised network, not about the network "
    "without draws, and about the cases of the table. "
)
NOTHING = (
    "No network was certified: give a model the defence smoothing and attack it with ball of the same kind, as "
    "freqbench certify does."
)
NO_CERTIFICATE = {
    "deformation": "two displacements, one after another, are not their sum: the second reads the field elsewhere",
    "vafa": "two roundings, one after another, are no rounding, and noise on a step's size is not undone by another",
    "sa2": "its multipliers lie in a box of thousands of coefficients: its L2 ball has a useless radius",
}
"""Reasons for threat models without a certificate, by the beginning of an attack's name."""


def require_certified(grid: Any) -> None:
    """Refuses, with a UserError of one line, a grid of which some cell has no certificate or too few draws."""
    balls, seeds = [], defaultdict[tuple[str, str], set[int]](set)
    for cell in grid.cells:
        if getattr(cell.attack, "radius", None) == 0:
            seeds[cell.dataset.name, cell.source.model_id].add(cell.seed or 0)
        else:
            balls.append(cell)
    scores = 3 + max(cell.dataset.num_classes for cell in grid.cells) * (2 if "nsd" in grid.metrics else 1)
    statements = scores * sum(len(grid.cases[cell.dataset.name]) for cell in balls)
    for cell in grid.cells:
        attack, defence, name = cell.attack, cell.source.defence, cell.source.name
        if attack.name != "ball":
            reasons = [reason for begin, reason in NO_CERTIFICATE.items() if attack.name.startswith(begin)]
            why = f": {reasons[0]}" if reasons else ""
            raise UserError(f"attacks: expected ball, the one attack with a certificate, got {attack.name}{why}")
        if getattr(defence, "name", None) != "smoothing" or defence.kind != attack.kind:
            got = "no such defence" if defence is None else f"{defence.name} {getattr(defence, 'kind', '')}".strip()
            raise UserError(
                f"ball on {name}: expected the defence {{name: smoothing, kind: {attack.kind}, sigma: ...}}, got "
                f"{got}: say in `sources` which models each attack is for"
            )
        if [target.model_id for target in cell.targets] != [cell.source.model_id]:
            raise UserError(f"targets: expected source, got others for {name}: a certificate is of the attacked model")
    for cell in balls:
        sets = len(seeds[cell.dataset.name, cell.source.model_id])
        if not sets:
            raise UserError(
                f"ball on {cell.source.name}: expected draws of the clean volume, got none: add {{name: ball, kind: "
                f"{cell.attack.kind}, radius: 0, control: random}}, which draws once for each of `seeds`"
            )
        defence = cell.source.defence
        least = ALPHA / statements
        certificates.require(sets * defence.samples, defence.kind, cell.attack.radius, defence.sigma, least)


def bounds(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset and score of SHOWN, one row per model and radius; needs certificates.COLUMNS."""
    counted = records[records["left_out"] == ""]
    rows = certificates.brackets(counted)
    if rows.empty:
        return [Section("Certified at least, attacked at most", text=NOTHING)]
    text = f"All {len(rows):,} bounds of the csv hold together with a probability of {100 * (1 - ALPHA):g} % or more."
    title = "certified at least, attacked at most"
    return [
        Section(
            f"{dataset}: {title}" if score == certificates.SHOWN else f"{dataset}: {name.lower()}, {title}",
            shown(certificates.means(group, score)),
            f"{name} {HOW}{text}" if score == certificates.SHOWN else f"{name} x100. It is read like the table before.",
            group[group["score"].where(group["score"].isin(SHOWN), certificates.SHOWN) == score],
        )
        for dataset, group in rows.groupby("dataset")
        for score, name in SHOWN.items()
        if (group["score"] == score).any()
    ]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of `certificates.means` as people read them, with the `gap` between the two ends."""
    names = {"target_model": "model", "certified": "at least", "attacked": "at most"}
    columns = table[["target_model", "kind", "sigma", "draws", "radius", "cases", "clean", "certified", "attacked"]]
    texts = {name: [f"{value:.4g}" for value in table[name]] for name in ("sigma", "radius")}
    return columns.assign(gap=table["attacked"] - table["certified"], **texts).rename(columns=names)
