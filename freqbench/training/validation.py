"""How good weights are on a list of cases, clean and under an attack."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from freqbench import models
from freqbench.attacks import Attack
from freqbench.evaluate import attack_case
from freqbench.metrics import dice
from freqbench.types import Case

Scores = npt.NDArray[np.float64]


def case_dice(
    model: models.SegmentationModel,
    cases: Sequence[tuple[int, Case]],
    num_classes: int,
    attack: Attack | None = None,
) -> dict[int, Scores]:
    """Dice of every case and class, `[K]`, NaN where a case's label lacks the class, by the cases' numbers.

    Args:
        model: in evaluation mode.
        cases: each with a number.
        num_classes: background included.
        attack: cases are attacked by it first, with seed 0, window by window; None: as they are.
    """
    device = next(model.parameters()).device
    found = {}
    for number, case in cases:
        image = case.image
        if attack is not None:
            seed = 0 if attack.is_stochastic else None
            image = attack_case(attack, model, case, seed, window_batch=1).adversarial
        with torch.no_grad():
            pred = models.predict(model, image.to(device)).cpu()
        found[number] = dice(pred, case.label, num_classes)
    return found


def mean_foreground(scores: Scores) -> float:
    """Mean over cases of each case's mean over the foreground classes that it has; 0 where no case has any.

    Args:
        scores: `[N, K]`, NaN where a case lacks a class.
    """
    foreground = scores[:, 1:]
    has = ~np.isnan(foreground)
    cases = has.any(axis=1)
    if not cases.any():
        return 0.0
    sums = np.where(has, foreground, 0).sum(axis=1)
    return float((sums[cases] / has.sum(axis=1)[cases]).mean())


def choice(by: str, clean: float, attacked: float) -> float:
    """What picks the best weights: the Dice of `clean` volumes, of `attacked` ones, or their `mean`."""
    return {"clean": clean, "attacked": attacked, "mean": math.fsum((clean, attacked)) / 2}[by]
