"""Budgets of distances whose inverse is known."""

import math
from collections.abc import Callable

import pytest

from freqbench.engine.matching import Found, search

CURVES: dict[str, Callable[[float], float]] = {
    "straight": lambda b: 90 * b,
    "square": lambda b: 40 * b**2,
    "bounded": lambda b: 50 * (1 - math.exp(-b / 0.05)),
    "with an offset": lambda b: 0.5 + 20 * b,
    "from nothing": lambda b: max(0.0, 30 * (b - 0.01)),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("value", [0.6, 2.0, 10.0])
def test_the_distance_is_met_within_a_percent(curve: str, value: float) -> None:
    found = search(CURVES[curve], value, 2**-12, 1.0)
    assert found.distance == CURVES[curve](found.budget) == pytest.approx(value, rel=0.011)
    assert found.tried <= 12


def test_a_straight_line_takes_one_budget_beside_the_strides() -> None:
    """0.001, 0.004, 0.016, 0.064, and back to 3 / 90."""
    assert search(lambda b: 90 * b, 3.0, 0.001, 1.0).tried == 5


@pytest.mark.parametrize("value", [4.0, 5.1, 9.0, 13.0])
def test_where_the_distance_falls_again_the_least_budget_is_found(value: float) -> None:
    """As VAFA's does: 20 at 500, but 5 at the largest; what lies between 5 and 20 is reached twice."""
    found = search(lambda b: 20 * (b / 500 if b < 500 else (500 / b) ** 0.4), value, 5.0, 16000.0)
    assert found.budget == pytest.approx(25 * value, rel=0.011)


def test_budgets_have_three_digits_and_stay_inside_their_bounds() -> None:
    tried = []
    search(lambda b: tried.append(b) or 7 * b**1.7, 0.01, 0.0012345, 0.98765)
    assert tried[0] == 0.0012345
    assert all(b == float(f"{b:.3g}") and 0.0012345 <= b <= 0.98765 for b in tried[1:])
    assert len(set(tried)) == len(tried), "no budget is tried twice"


def test_a_bound_that_meets_the_value_is_taken() -> None:
    assert search(lambda b: 10 * b, 10.05, 0.1, 1.0) == Found(budget=1.0, distance=10.0, tried=3)
    assert search(lambda b: 10 * b, 1.0, 0.1, 1.0).budget == 0.1


def test_ripples_do_not_lead_astray() -> None:
    """A distance that falls here and there, as those of attacks with signs do."""

    def rippled(b: float) -> float:
        return 90 * b * (1 + 0.1 * math.sin(40 * math.log(b)))

    found = search(rippled, 3.0, 2**-12, 1.0)
    assert rippled(found.budget) == pytest.approx(3.0, rel=0.011)


@pytest.mark.parametrize(
    ("value", "nearest", "tried"), [(100.0, (1.0, 50.0), 6), (0.01, (0.001, 0.05), 1)], ids=["above", "below"]
)
def test_a_value_beyond_the_bounds_leads_to_the_nearest(value: float, nearest: tuple[float, float], tried: int) -> None:
    found = search(lambda b: 50 * b, value, 0.001, 1.0)
    assert (found.budget, found.distance, found.tried) == (*nearest, tried)


def test_a_value_that_the_distance_jumps_over_leads_to_the_nearest() -> None:
    found = search(lambda b: 1.0 if b < 0.1 else 9.0, 8.0, 0.001, 1.0)
    assert found.distance == 9.0
    assert found.tried <= 20
