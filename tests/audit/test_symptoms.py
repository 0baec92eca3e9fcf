"""Numbers of gradients against values counted by hand."""

import math

import pytest
import torch

from freqbench.audit.symptoms import share_at_end, sign_agreement, zero_share


def test_exact_zeros_and_infinities_are_counted() -> None:
    for gradient in ([0.0, -0.0, 1e-38, -1.0], [math.nan, math.inf, 1.0, 1.0]):
        assert zero_share(torch.tensor(gradient)) == 0.5


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ([1.0, -2.0, 0.0, 0.0], [3.0, -1.0, 0.0, 1.0], 2 / 3),  # the third is zero in both, the fourth in one
        ([math.nan, math.inf, 1.0, 1.0], [math.nan, math.inf, 1.0, 1.0], 0.5),
        ([0.0], [0.0], math.nan),
    ],
)
def test_signs_agree_over_voxels_that_have_one_in_either(first: list[float], second: list[float], share: float) -> None:
    assert sign_agreement(torch.tensor(first), torch.tensor(second)) == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "share"),
    [
        ([float(step) for step in range(21)], 2 / 20),  # two of 20 equal steps
        ([0.0, 1.0, 1.0, 1.0], 0.0),
        ([0.0, 1.0, 0.5, 0.4], 0.0),  # it falls at the end
        ([0.0, 0.0, 0.0, 2.0], 1.0),
        ([1.0, *[0.5] * 18, 1.01], 1.0),  # it only comes back
        ([1.0, *[0.5] * 9, 2.0, *[0.5] * 8, 1.5], 0.5),
    ],
)
def test_the_share_of_the_rise_in_the_last_tenth(losses: list[float], share: float) -> None:
    assert share_at_end(losses) == pytest.approx(share)


@pytest.mark.parametrize("losses", [[], [1.0, 2.0], [1.0, 1.0, 1.0], [2.0, 1.0, 0.5]])
def test_a_loss_that_never_rose_has_no_share(losses: list[float]) -> None:
    assert math.isnan(share_at_end(losses))
