"""Corruptions, the same wherever they are asked for, and random noise of exactly the size that it states."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, Threshold, generators, of_class
from tiny_job import sent
from torch import Tensor

from freqbench.attacks import make
from freqbench.attacks.corruption import KINDS, Corruption

every_kind = pytest.mark.parametrize("kind", KINDS)
ON_AIR = {"gaussian_noise", "rician_noise", "low_dose", "spikes"}  # what adds something everywhere


def scan(batch: int = 1, channels: int = 1, side: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two bright balls with some texture in dark air, within [0.1, 0.8]."""
    axis = torch.linspace(-1, 1, side)
    h, w, d = torch.meshgrid(axis, axis, axis[::2], indexing="ij")
    left = (h + 0.3) ** 2 + w**2 + d**2 < 0.25
    balls = (left | ((h - 0.5) ** 2 + (w - 0.3) ** 2 + d**2 < 0.1)).float()
    texture = torch.rand((batch, channels, *balls.shape), generator=torch.Generator().manual_seed(3))
    return (0.1 + 0.5 * balls * (0.6 + 0.8 * texture)).to(dtype)


def corrupted(kind: str, severity: float, images: Tensor, *seeds: int, **options: object) -> Tensor:
    labels = of_class(images[:, :1])
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
    batch = corrupted(kind, 5, images, 5, 6)
    alone = corrupted(kind, 5, images[1:].double(), 6)
    assert (batch.shape, batch.dtype, alone.dtype) == (images.shape, torch.float32, torch.float64)
    assert torch.allclose(batch[1:].double(), alone, atol=1e-4)
    assert 0 <= batch.min() < batch.max() <= 1
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
    assert (float(noise.std()), float(noise.mean())) == (pytest.approx(size, rel=0.02), pytest.approx(0, abs=0.003))


def test_rician_noise_is_rayleigh_in_air() -> None:
    air, bright = (corrupted("rician_noise", 3, torch.full((1, 1, 40, 40, 20), level), 1) for level in (0.0, 0.5))
    assert air.mean() == pytest.approx(0.07 * math.sqrt(math.pi / 2), rel=0.01)
    assert bright.square().mean() == pytest.approx(0.5**2 + 2 * 0.07**2, rel=0.01)


def test_contrast_is_a_power_of_intensities() -> None:
    images = scan(dtype=torch.float64)
    assert np.allclose(corrupted("contrast", 4, images), images.numpy() ** 2.0)


def grey(batch: int = 1, side: int = 16, level: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((batch, 1, side, side, side), level, dtype=dtype)


def noise(images: Tensor, start: Tensor | None = None, **size: float) -> Tensor:
    labels = of_class(images)
    attack = make("random_noise", **size)
    seeds = generators(*range(len(images)))
    return attack(Threshold(), images, labels, generator=seeds, start=start).adversarial.double() - images.double()


def test_every_voxel_changes_by_linf_one_half_up() -> None:
    added = noise(grey(dtype=torch.float64), linf=8 / 255)
    assert torch.allclose(added.abs(), torch.tensor(8 / 255, dtype=torch.float64), rtol=0, atol=1e-15)
    assert abs(float((added > 0).double().mean()) - 0.5) < 4 * 0.5 / 16**1.5, "four standard deviations of 4096 coins"


def test_linf_and_l2_noise_have_the_same_normals() -> None:
    normals = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
    images = grey(dtype=torch.float64)
    kept = normals.clone()
    assert torch.allclose(noise(images, normals, linf=0.1), 0.1 * normals.sign(), rtol=0, atol=1e-15)
    direction = normals.numpy() / np.linalg.norm(normals.numpy())
    assert np.allclose(noise(images, normals, l2=2.0).numpy(), 2 * direction, rtol=0, atol=1e-15)
    assert torch.equal(normals, kept), "what is given is left alone"


@pytest.mark.parametrize("value", [0.5, 10.0, 25.0])
def test_norm_is_l2_after_clamping(value: float) -> None:
    """Air, as in a scan, and two windows with different room: each by a number of its own."""
    images = torch.rand(2, 1, 16, 16, 16, dtype=torch.float64)
    images[0, :, :12] = 0
    normals = torch.randn(images.shape, dtype=torch.float64)
    added = noise(images, normals, l2=value)
    moved = images + added
    factors = []
    for x, change, n in zip(moved, added, normals, strict=True):
        assert float(change.square().sum()) ** 0.5 == pytest.approx(value, abs=1e-12)
        free = (x > 0) & (x < 1)
        ratio = change[free] / n[free]
        assert torch.allclose(ratio, ratio.mean(), rtol=1e-9, atol=0)
        # What is at an edge would have gone beyond it.
        assert (ratio.mean() * n[~free].abs() >= change[~free].abs() - 1e-12).all()
        factors.append(float(ratio.mean()))
    assert factors[0] != pytest.approx(factors[1], rel=1e-3)


def test_a_norm_beyond_the_room_takes_all_of_it() -> None:
    images = grey(level=0.25, dtype=torch.float64)
    normals = torch.randn(images.shape, dtype=torch.float64)
    normals[..., 0] = 0
    added = noise(images, normals, l2=1000.0)
    noise(grey(side=96), l2=100.0)  # a tenth of the range a voxel: within a bound of 1e-6 in single precision too
    assert torch.equal(added, torch.where(normals >= 0, 0.75, -0.25))


@pytest.mark.parametrize("made_again", [lambda a: a, sent, replace])
def test_budget_and_threat_model_are_those_of_given_parameter(made_again: Callable[[Any], Any]) -> None:
    for name in ("linf", "l2"):
        attack = made_again(make("random_noise", **{name: 0.5}))
        assert (attack.threat_model, attack.budget_name, getattr(attack, attack.budget_name)) == (name, name, 0.5)
