"""Corruptions: what each kind does to volumes, and that it is the same wherever it is asked for."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, generators
from torch import Tensor

from freqbench.attacks import make
from freqbench.attacks.corruption import KINDS, Corruption

every_kind = pytest.mark.parametrize("kind", KINDS)
ON_AIR = {"gaussian_noise", "rician_noise", "low_dose", "spikes"}  # what adds something everywhere


def scan(batch: int = 1, channels: int = 1, side: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two bright balls with some texture in dark air, within [0.1, 0.8]."""
    axis = torch.linspace(-1, 1, side)
    h, w, d = torch.meshgrid(axis, axis, axis[::2], indexing="ij")
    balls = ((h + 0.3) ** 2 + w**2 + d**2 < 0.25).float() + ((h - 0.5) ** 2 + (w - 0.3) ** 2 + d**2 < 0.1).float()
    texture = torch.rand((batch, channels, *balls.shape), generator=torch.Generator().manual_seed(3))
    return (0.1 + 0.5 * balls.clamp(max=1) * (0.6 + 0.8 * texture)).to(dtype)


def corrupted(kind: str, severity: float, images: Tensor, *seeds: int, **options: object) -> Tensor:
    labels = torch.zeros_like(images[:, :1], dtype=torch.long)
    model = SmallNet(images.shape[1]).to(images.dtype)
    attack = make("corruption", kind=kind, severity=severity, **options)
    return attack(model, images, labels, generator=generators(*seeds) if seeds else None).adversarial


@every_kind
def test_volumes_move_further_away_with_every_severity(kind: str) -> None:
    """On average over four scans, from 0 on; between two severities sizes are interpolated."""
    assert Corruption(kind="resolution", severity=4.5).size == pytest.approx(2.75)
    images = scan(4)
    distances = [
        float((corrupted(kind, severity, images, *range(4)) - images).square().mean().sqrt()) for severity in range(6)
    ]
    assert distances[0] == 0
    assert all(less < more for less, more in pairwise(distances))


@every_kind
def test_corruption_keeps_shape_and_range(kind: str) -> None:
    """A sample alone in double precision is, to rounding, what it is in a batch; another seed differs iff it draws."""
    images = scan(2, channels=3)
    batch, alone = corrupted(kind, 5, images, 5, 6), corrupted(kind, 5, images[1:].double(), 6)
    assert (batch.shape, batch.dtype, alone.dtype) == (images.shape, torch.float32, torch.float64)
    assert torch.allclose(batch[1:].double(), alone, atol=1e-4)
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1
    other = corrupted(kind, 5, images, 5, 7)
    assert torch.equal(batch[1], other[1]) != make("corruption", kind=kind, severity=5).is_stochastic


@every_kind
def test_air_stays_air_unless_something_is_added(kind: str) -> None:
    assert bool(corrupted(kind, 5, torch.zeros(1, 1, 12, 12, 6), 1).any()) == (kind in ON_AIR)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].draws])
def test_channels_share_a_corruption_but_for_noise(kind: str) -> None:
    volume = corrupted(kind, 4, torch.full((1, 2, 24, 24, 12), 0.5), 1)
    if kind not in ("gaussian_noise", "rician_noise", "low_dose"):
        assert torch.allclose(volume[:, 0], volume[:, 1], atol=1e-6)
    else:
        assert abs(np.corrcoef(volume[0, 0].flatten(), volume[0, 1].flatten())[0, 1]) < 0.05


@pytest.mark.parametrize(("kind", "severity", "size"), [("gaussian_noise", 3, 0.07), ("low_dose", 4, 0.11)])
def test_noise_has_the_standard_deviation_of_its_severity(kind: str, severity: int, size: float) -> None:
    noise = corrupted(kind, severity, torch.full((1, 1, 40, 40, 20), 0.5), 1) - 0.5
    assert float(noise.std()) == pytest.approx(size, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)


def test_rician_noise_is_rayleigh_in_air() -> None:
    air, bright = (corrupted("rician_noise", 3, torch.full((1, 1, 40, 40, 20), level), 1) for level in (0.0, 0.5))
    assert float(air.mean()) == pytest.approx(0.07 * math.sqrt(math.pi / 2), rel=0.01)
    assert float(bright.square().mean()) == pytest.approx(0.5**2 + 2 * 0.07**2, rel=0.01)


def test_contrast_is_a_power_of_intensities() -> None:
    images = scan(dtype=torch.float64)
    assert np.allclose(corrupted("contrast", 4, images), images.numpy() ** 2.0)
