"""Energy columns: noise is white, each attack's band is where it says, nothing is nothing."""

import math

import pytest
import torch

from freqbench.attacks import make
from freqbench.metrics import energy_scores
from freqbench.metrics.frequency import ENERGY_BLOCK
from freqbench.ops.blocks import split
from freqbench.ops.dct import BlockDCT

SHAPE = (32, 24, 16)


def uniform(seed: int = 0) -> torch.Tensor:
    return torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))


def test_white_noise_is_the_same_in_every_band() -> None:
    """The mean absolute value of a normal variable is its standard deviation times sqrt(2 / pi)."""
    noise = 0.1 * torch.randn((64, 64, 64), generator=torch.Generator().manual_seed(1))
    for value in energy_scores(torch.zeros_like(noise), noise).values.values():
        assert value == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)


def test_a_shift_is_low_and_a_checkerboard_is_high() -> None:
    """A constant c has one coefficient in 20 of the band, c sqrt(512)."""
    clean = torch.full((1, *SHAPE), 0.5)
    shift = energy_scores(clean, clean + 0.25).values
    assert shift["energy_low"] == pytest.approx(0.25 * math.sqrt(512) / 20)
    assert shift["energy_middle"] == pytest.approx(0, abs=1e-9)
    signs = 1 - 2 * (torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij")).sum(0) % 2)
    board = energy_scores(clean, clean + 0.25 * signs).values
    assert board["energy_high"] > 10 * board["energy_middle"] > 10 * board["energy_low"]


def test_an_attack_on_one_band_has_its_energy_there() -> None:
    """Random multipliers of SA2 on the high band alone, in blocks of the same grid; nothing is clamped."""
    clean = 0.4 + 0.2 * uniform()[None]
    attack = make("sa2", rho=0.4, control="random", band="high", block=ENERGY_BLOCK)
    adversarial = attack(torch.nn.Identity(), clean, torch.zeros_like(clean, dtype=torch.long)).adversarial
    values = energy_scores(clean, adversarial).values
    spectrum = split(BlockDCT.of(clean, (8, 8, 8)).spectrum(adversarial - clean), (8, 8, 8))
    assert values["energy_high"] == pytest.approx(float(spectrum.abs().sum()) / (spectrum.numel() / 512 * 20), rel=1e-4)
    assert max(values["energy_low"], values["energy_middle"]) < 1e-6


def test_a_volume_too_small_for_a_band_has_a_reason() -> None:
    scores = energy_scores(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    assert scores.values["energy_low"] == 1
    assert set(scores.reasons) == {"energy_middle", "energy_high"}
