"""The least budget that leads to a distance, found by bisection."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from freqbench.core.errors import UserError

TOLERANCE = 0.01  # of the distance: near enough to stop
MISS = 0.05  # of the distance: too far off to be called equal
WIDTH = 0.002  # of the budget: where the search gives up
STRIDE = 4.0  # from budget to budget until one leads beyond the value
NOTHING = 1e-12  # a distance that is taken for 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """A budget and what it leads to.

    Attributes:
        budget: of three digits.
        distance: at this budget.
        tried: how many budgets were tried.
    """

    budget: float
    distance: float
    tried: int


class UnreachableError(UserError):
    """No budget leads to the distance that was asked for; `nearest` comes nearest."""

    def __init__(self, nearest: Found) -> None:
        super().__init__(f"the nearest distance is {nearest.distance:.4g}, at {nearest.budget:g}")
        self.nearest = nearest


def search(distance: Callable[[float], float], value: float, low: float, high: float) -> Found:
    """The least budget that leads to a distance, by bisection.

    Budgets grow by STRIDE from the least on until one leads beyond the value, as not every distance grows all the way:
    that of VAFA falls again where all coefficients are quantised to nothing (a peak narrower than a stride may be
    missed). Between this one and the one before, the search is on logarithmic scales, on which most distances are
    nearly straight lines, with the interpolation inside the bracket of R. P. Brent, "Algorithms for Minimization
    without Derivatives", 1973 (scipy's `brentq`).

    Args:
        distance: of a budget; at least 0.
        value: the distance that is sought, above 0.
        low: the least budget, above 0.
        high: the largest.

    Raises:
        UnreachableError: the least budget leads beyond the value or no budget to it, or the distance jumps over it by
            more than 5 %.

    >>> search(lambda eps: 100 * eps, 3.0, 0.001, 1.0)
    Found(budget=0.03, distance=3.0, tried=5)
    """
    from scipy.optimize import brentq

    tried: dict[float, float] = {}

    def gap(exponent: float) -> float:
        budget = min(max(float(f"{math.exp(exponent):.3g}"), low), high)
        if budget not in tried:
            tried[budget] = distance(budget)
        off = _off(tried[budget], value)
        return 0.0 if abs(off) <= TOLERANCE else off  # at 0 the search ends

    below, last = math.log(low), math.log(high)
    while gap(below) < 0 and below < last:
        above = min(below + math.log(STRIDE), last)
        if gap(above) >= 0:
            brentq(gap, below, above, xtol=WIDTH)
            break
        below = above
    nearest = min(tried, key=lambda budget: abs(_off(tried[budget], value)))
    found = Found(budget=nearest, distance=tried[nearest], tried=len(tried))
    if abs(_off(found.distance, value)) > MISS:
        raise UnreachableError(found)
    return found


def _off(distance: float, value: float) -> float:
    return math.log(max(distance, NOTHING) / value)
