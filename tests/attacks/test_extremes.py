"""Four numbers of a gradient tell whether some entry is finite and not 0, and whether all are finite."""

import math

import pytest
import torch

from freqbench.attacks.core.calls import extremes, useful_and_finite

MIXTURES = [
    [0.0, 0.0],
    [0.0, -0.0, 1e-30],
    [-2.0, 0.0],
    [math.nan, 0.0],
    [math.nan, -3.0],
    [math.inf, 0.0],
    [-math.inf, 1.0],
    [math.nan, math.inf],
]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("entries", MIXTURES, ids=str)
def test_the_flags_are_those_of_all_entries(entries: list[float], kind: torch.dtype) -> None:
    gradient = torch.tensor(entries).to(kind)
    finite = gradient.isfinite()
    expected = [bool((finite & (gradient != 0)).any()), bool(finite.all())]
    assert useful_and_finite(extremes(gradient)[None]).tolist() == [expected]


def test_no_gradient_has_no_flags() -> None:
    assert useful_and_finite(torch.empty(0, 4)).shape == (0, 2)
