"""Measures symptoms of gradients: exact zeros, poor repeatability, a loss that still rises."""

import math
from collections.abc import Sequence

from torch import Tensor

LAST_PART = 0.1


def zero_share(gradient: Tensor) -> float:
    """Returns the share of entries that are exactly 0, or not finite. Nearly all mean that the network rounds, clips or
    saturates: gradient attacks stand still (Athalye, Carlini, Wagner, ICML 2018, shattered gradients)."""
    return float(((gradient == 0) | ~gradient.isfinite()).double().mean())


def sign_agreement(first: Tensor, second: Tensor) -> float:
    """Returns the share of entries of one sign in both, of those not 0 in both; NaN if all are. Not finite: they
    disagree. A deterministic network has 1, one that draws at random about 0.5 (stochastic gradients, ibid.)."""
    if not (counts := (first != 0) | (second != 0)).any():
        return math.nan
    return float(((first.sign() == second.sign()) & first.isfinite() & second.isfinite())[counts].double().mean())


def share_at_end(losses: Sequence[float]) -> float:
    r"""Returns the share of a loss's rise that its last tenth of steps makes, at least one step.

    .. math:: \frac{\max(0, L_n - \max(L_{n-k}, L_1))}{\max_i L_i - L_1}, \qquad k = \max(1, \mathrm{round}(n / 10))

    It is 0 if the loss has settled, about 0.1 if it rises steadily, and NaN if it never rose or has under three values.
    """
    if len(losses) < 3:
        return math.nan
    last = max(1, round(LAST_PART * len(losses)))
    rise = max(losses) - losses[0]
    return max(0.0, losses[-1] - max(losses[-1 - last], losses[0])) / rise if rise > 0 else math.nan
