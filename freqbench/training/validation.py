"""Measures weights on a list of cases, clean and under an attack."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from freqbench import models
from freqbench.attacks import Attack
from freqbench.core.types import Case
from freqbench.engine.attacking import Needs, attack_case
from freqbench.metrics import dice

Scores = npt.NDArray[np.float64]


def case_dice(
    model: models.SegmentationModel,
    cases: Sequence[tuple[int, Case]],
    num_classes: int,
    attack: Attack | None = None,
    whole: Sequence[Case] = (),
) -> dict[int, Scores]:
    """Computes Dice of each case and class, `[K]`, NaN if a case's label lacks the class, by case number in `whole`. An
    attack comes first, with seed 0, window by window; one that mixes cases takes the next of `whole`."""
    device = next(model.parameters()).device
    scores = {}
    for number, case in cases:
        image, label = case.image, case.label
        if attack is not None:
            seed = 0 if attack.is_stochastic else None
            reference = whole[(number + 1) % len(whole)] if attack.needs_reference else None
            attacked = attack_case(attack, model, case, seed, 1, Needs(reference=reference))
            image, label = attacked.adversarial, attacked.relabel(case).label
        with torch.no_grad():
            pred = models.predict(model, image.to(device)).cpu()
        scores[number] = dice(pred, label, num_classes, has_regions=not model.head.has_background)
    return scores


def mean_foreground(scores: Scores) -> float:
    """Mean over cases of each one's mean over its foreground classes; 0 if no case has any."""
    means = _case_means(scores)
    return float(means.mean()) if len(means) else 0.0


def attacked_dice(scores: Sequence[Scores]) -> tuple[float, float]:
    """Mean foreground Dice over attacks, and mean over cases of the lowest, of `[N, K]` each; NaN without any."""
    if not scores:
        return math.nan, math.nan
    means = np.stack([_case_means(each) for each in scores])  # [attacks, cases]
    return (float(means.mean()), float(means.min(axis=0).mean())) if means.size else (0.0, 0.0)


def _case_means(scores: Scores) -> Scores:
    """Mean over foreground classes of each case that has one; scores are `[N, K]`, NaN where a case lacks a class."""
    foreground = scores[:, 1:]
    has = ~np.isnan(foreground)
    cases = has.any(axis=1)
    return np.asarray(np.where(has, foreground, 0).sum(axis=1)[cases] / has.sum(axis=1)[cases])


def choice(by: str, clean: float, attacked: float, worst: float) -> float:
    """Score that picks the best weights: the Dice of `clean` or `attacked` volumes, their `mean`, or the `worst`."""
    return {"clean": clean, "attacked": attacked, "mean": math.fsum((clean, attacked)) / 2, "worst": worst}[by]
