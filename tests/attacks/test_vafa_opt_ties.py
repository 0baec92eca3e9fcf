"""Null rows of `vafa_opt` where a coefficient lies halfway between two multiples of q_max."""

import math

import pytest
import torch
from attacks.examples import SmallNet

from freqbench.attacks import make


@pytest.mark.parametrize("short", [0.0, 1e-4, -1e-4])
def test_the_uniform_null_row_is_made_by_its_own_table(short: float) -> None:
    """The first coefficient of constant blocks is 30, one and a half times 20, and a little less or more."""
    value, root = 30 - short, math.sqrt(8)
    images = torch.full((1, 1, 8, 6, 4), (value / root + 128) / 255, dtype=torch.float64)
    attack = make("vafa_opt", q_max=20.0, block=2, renormalize=False, control="uniform")
    result = attack(SmallNet().double(), images, torch.zeros_like(images, dtype=torch.long))
    assert result.state is not None
    step = float(result.state.flatten()[0])
    made = (step * round(value / step) / root + 128) / 255
    assert float(result.adversarial.flatten()[0]) == pytest.approx(made, abs=1e-9)
