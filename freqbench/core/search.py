"""Finds the smallest argument at which a growing quantity reaches a value."""

import math
from collections.abc import Callable
from dataclasses import dataclass

TOLERANCE = 0.01  # relative error of the distance that is near enough to stop
WIDTH = 0.002  # relative width of the budget's interval at which the search stops
STRIDE = 4.0  # factor from budget to budget until one exceeds the value
NOTHING = 1e-12  # a distance that counts as 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """A budget of three digits, its distance, and the number of budgets that were tried."""

    budget: float
    distance: float
    tried: int


def search(distance: Callable[[float], float], value: float, low: float, high: float) -> Found:
    """Returns the smallest budget that reaches a distance, by bisection; if none does, the one that comes nearest.

    Budgets grow by STRIDE from the smallest on until one exceeds the value, as not every distance grows all the way:
    that of VAFA falls again where all coefficients are quantised to nothing (a peak narrower than a stride may be
    missed). Between this budget and the one before, scipy's `brentq` (R. P. Brent, "Algorithms for Minimization without
    Derivatives", 1973) searches on logarithmic scales, on which most distances are nearly straight lines. Budgets and
    the value are above 0.

    >>> search(lambda eps: 100 * eps, 3.0, 0.001, 1.0)
    Found(budget=0.03, distance=3.0, tried=5)
    """
    from scipy.optimize import brentq

    tried: dict[float, float] = {}

    def gap(exponent: float) -> float:
        budget = min(max(float(f"{math.exp(exponent):.3g}"), low), high)
        if budget not in tried:
            tried[budget] = distance(budget)
        off = log_ratio(tried[budget], value)
        return 0.0 if abs(off) <= TOLERANCE else off  # at 0 the search ends

    below, last = math.log(low), math.log(high)
    while gap(below) < 0 and below < last:
        above = min(below + math.log(STRIDE), last)
        if gap(above) >= 0:
            brentq(gap, below, above, xtol=WIDTH)
            break
        below = above
    nearest = min(tried, key=lambda budget: abs(log_ratio(tried[budget], value)))
    return Found(budget=nearest, distance=tried[nearest], tried=len(tried))


def log_ratio(distance: float, value: float) -> float:
    """Returns the logarithm of the ratio of a distance to the value."""
    return math.log(max(distance, NOTHING) / value)
