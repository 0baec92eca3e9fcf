"""Compares an attack with noise of its size, and with its own change without optimisation.

Random noise of the same norm knows nothing of the model. A null row (`control: uniform` or `random`) of a frequency
attack makes the same change without a gradient: with drop = clean DSC - DSC, the optimisation is credited with
the drop beyond that of the strongest null row, and its share of the whole drop.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from freqbench.analysis.groups import NOISE, points
from freqbench.audit.checks import contrasts
from freqbench.audit.checks.contrasts import Contrast, Judged, contrasted, is_close, judge, mean_drop, white_box
from freqbench.audit.checks.evidence import Attacked, Setting
from freqbench.audit.checks.findings import Finding, interval_text, unchecked

Array = npt.NDArray[np.float64]
EQUAL_L2 = 0.1
BRIGHTNESS = ("bias-field", "intensity-curve")  # their largest members change much of a volume, and little of its Dice
CONTROLS = ("uniform", "random")
OPTIMISATION = (
    *("control", "steps", "step_size", "loss", "restarts", "keep", "target", "organs", "targeted"),
    *("ssim_weight", "dice_weight", "reconstruction_weight", "scope"),
)
"""Parameters that a null row ignores."""


@contrasted(
    "Gradient attacks hurt more than noise of equal L-infinity norm",
    needs="random_noise with linf equal to the eps of a gradient attack on this model",
    strict=True,
)
def noise_linf(on: Attacked) -> Iterator[Contrast]:
    """Checks that a gradient attack is clearly stronger than random noise of equal L-infinity norm."""
    for attack in on.linf:
        for noise in (each for each in _noises(on) if each.threat_model == "linf"):
            if is_close(attack.budget, noise.budget):
                yield white_box(on, attack, noise)


@contrasted(
    "Gradient attacks hurt more than noise of equal L2 norm in the body",
    needs="random_noise or gn within 10 % of a gradient attack's L2 norm inside the body, on this model",
    strict=True,
)
def noise_l2(on: Attacked) -> Iterator[Contrast]:
    """Checks that a gradient attack is clearly stronger than random noise of equal L2 norm in the body. No noise is of
    the kind of BRIGHTNESS: a null row is what such an attack is held against."""
    norms = {label: column.to_numpy(float) for label, column in on.scores("l2_body").items()}
    noises = [each for each in _noises(on) if each.label in norms]
    gradient = [each for each in on.attacks if each.is_gradient and each.threat_model not in BRIGHTNESS]
    for attack in (each for each in gradient if each.label in norms):
        found = [(*_gap(norms[attack.label], norms[noise.label]), noise) for noise in noises]
        near = [each for each in found if each[1] <= EQUAL_L2]
        if near:  # of most cases, then of nearest size: an audit of more cases leaves the noise of the one before
            yield white_box(on, attack, min(near, key=lambda each: each[:2])[2])


def _noises(on: Attacked) -> list[Setting]:
    return [each for each in on.attacks if each.attack in NOISE and each.is_plain]


def _gap(one: Array, other: Array) -> tuple[int, float]:
    """Returns minus the number of cases that have both sizes, and the relative difference of their means."""
    if not (both := np.isfinite(one) & np.isfinite(other)).any():
        return 0, float("inf")
    small, large = sorted((float(one[both].mean()), float(other[both].mean())))
    return -int(both.sum()), (large - small) / large if large > 0 else float("inf")


def credit(on: Attacked) -> Iterator[Finding]:
    """Checks that a frequency attack is clearly stronger than its own null rows: one finding per attack."""
    optimised = [each for each in on.attacks if "control" in each.params and each.control == "none" and each.is_plain]
    if not optimised:
        yield unchecked("needs a frequency attack (vafa, sa2, faa) and its null rows (control) on this model")
    for attack in optimised:
        same = attack.same_but(*OPTIMISATION)
        nulls = [each for each in on.attacks if each.control in CONTROLS]
        null_rows = [null for null in nulls if null.same_but(*OPTIMISATION) == same]
        if not (judged := judge(on, [white_box(on, attack, null) for null in null_rows], strict=True)):
            text = f"{attack.label}: needs its null rows, the same with control: uniform or random."
            yield Finding(verdict="not checked", subject=attack.label, sentence=text)
            continue
        nearest = max(judged, key=lambda each: each.found.difference)
        scores = on.scores()
        both = scores[[attack.label, nearest.contrast.weak[2]]].dropna()
        drop, null_drop = (mean_drop(on, both[label], on.model) for label in both)
        null_drops = []
        for *_, label in (each.contrast.weak for each in judged):
            points_of_null = points(mean_drop(on, scores[label], on.model))
            null_drops.append(f"{on.evidence.settings[label].control} {points_of_null}")
        controls = {null.control for null in null_rows}
        lacking = [name for name in CONTROLS if name not in controls]
        advice = f"{', '.join(null_drops)} without optimisation. {_share(nearest, drop, null_drop)}"
        sentence = f"{attack.label}{_stretching(attack)}: drops {points(drop)} points; {advice}"
        if lacking:
            sentence += f" Not run: control: {', '.join(lacking)}."
        finding = Finding(verdict=nearest.verdict, sentence=sentence, comparisons=len(judged), **vars(nearest.found))
        yield replace(finding, subject=attack.label)


def _share(nearest: Judged, drop: float, null_drop: float) -> str:
    bounds = interval_text(-nearest.found.high, -nearest.found.low)
    gain = -nearest.found.difference
    if contrasts.is_none(nearest.found.difference, nearest.found.low, nearest.found.high):
        return f"It did nothing that its null row does not do: {gain:.1f} points ({bounds})."
    if nearest.verdict == "in doubt":
        rest = f"is not clearly more than {contrasts.POINTS:g}"
        return f"What the optimisation adds, {gain:.1f} points ({bounds}), {rest}."
    if nearest.verdict != "holds":
        return f"The optimisation takes {-gain:.1f} points of damage away ({bounds})."
    of_drop = f", {100 * min(gain / drop, 1):.0f} % of the drop" if drop > 0 and null_drop > 0 else ""
    return f"The optimisation adds {gain:.1f} points ({bounds}){of_drop}."


def _stretching(attack: Setting) -> str:
    """States that slices are stretched to [0, 1], or that they are not, for attacks that can stretch."""
    if attack.attack not in ("vafa", "vafa_2d") and "renormalize" not in attack.params:
        return ""
    renormalize = attack.params.get("renormalize")
    stretches = attack.variant != "paper" if renormalize is None else renormalize
    return " (slices stretched)" if stretches else " (slices not stretched)"
