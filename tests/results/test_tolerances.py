"""A number agrees with the stored one within a tolerance."""

import math

import pytest

from freqbench.results.tolerances import Tolerance


@pytest.mark.parametrize(
    ("absolute", "relative", "stored", "value", "agrees"),
    [
        (0, 0, 0.5, 0.5, True),
        (0, 0, math.nan, math.nan, True),
        (0, 0, math.nan, 0.5, False),
        (0.1, 0, 100, 100.2, False),
        (0, 0.05, 200, 209, True),
        (0, 0.05, 0.02, 0.03, False),
        (1, 0.05, -20, -21.9, True),
        (1, 0.05, -20, -22.1, False),
    ],
)
def test_tolerance_has_two_parts(absolute: float, relative: float, stored: float, value: float, agrees: bool) -> None:
    assert Tolerance(absolute=absolute, relative=relative).allows(stored, value) == agrees
