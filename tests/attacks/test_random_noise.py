"""Random noise has exactly the size that it states, and says by itself which budget that is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import Threshold, generators
from tiny_job import Collector, expanded, sent, small
from torch import Tensor

from freqbench.attacks import make
from freqbench.engine.engines import serial
from freqbench.engine.worker import WorkerSpec


def grey(batch: int = 1, side: int = 16, level: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((batch, 1, side, side, side), level, dtype=dtype)


def noise(images: Tensor, start: Tensor | None = None, **size: float) -> Tensor:
    labels = torch.zeros_like(images, dtype=torch.long)
    attack, seeds = make("random_noise", **size), generators(*range(len(images)))
    return attack(Threshold(), images, labels, generator=seeds, start=start).adversarial.double() - images.double()


def test_every_voxel_changes_by_linf_one_half_up() -> None:
    added = noise(grey(dtype=torch.float64), linf=8 / 255)
    assert torch.allclose(added.abs(), torch.tensor(8 / 255, dtype=torch.float64), rtol=0, atol=1e-15)
    assert abs(float((added > 0).double().mean()) - 0.5) < 4 * 0.5 / 16**1.5, "four standard deviations of 4096 coins"


def test_linf_and_l2_noise_have_the_same_normals() -> None:
    normals = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images, kept = grey(dtype=torch.float64), normals.clone()
    assert torch.allclose(noise(images, normals, linf=0.1), 0.1 * normals.sign(), rtol=0, atol=1e-15)
    direction = normals.numpy() / np.linalg.norm(normals.numpy())
    assert np.allclose(noise(images, normals, l2=2.0).numpy(), 2 * direction, rtol=0, atol=1e-15)
    assert torch.equal(normals, kept), "what is given is left alone"


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_clamping_takes_signs_that_leave_the_range(level: float) -> None:
    free, held = (noise(grey(level=at, dtype=torch.float64), linf=0.4) for at in (0.5, level))
    expected = free.clamp(min=0) if level == 0 else free.clamp(max=0)
    assert torch.allclose(held, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("value", [0.5, 10.0, 25.0])
def test_norm_is_l2_after_clamping(value: float) -> None:
    """Air, as in a scan, and two windows with different room: each by a number of its own."""
    images = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    images[0, :, :12] = 0
    normals = torch.randn(images.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    added = noise(images, normals, l2=value)
    moved, factors = images + added, []
    for x, change, n in zip(moved, added, normals, strict=True):
        assert float(change.square().sum()) ** 0.5 == pytest.approx(value, abs=1e-12)
        free = (x > 0) & (x < 1)
        ratio = change[free] / n[free]
        assert torch.allclose(ratio, ratio.mean(), rtol=1e-9, atol=0)
        # What is at an edge would have gone beyond it.
        assert bool((ratio.mean() * n[~free].abs() >= change[~free].abs() - 1e-12).all())
        factors.append(float(ratio.mean()))
    assert factors[0] != pytest.approx(factors[1], rel=1e-3)


def test_a_norm_beyond_the_room_takes_all_of_it() -> None:
    images = grey(level=0.25, dtype=torch.float64)
    normals = torch.randn(images.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    normals[..., 0] = 0
    added = noise(images, normals, l2=1000.0)
    noise(grey(side=96), l2=100.0)  # a tenth of the range a voxel: within a bound of 1e-6 in single precision too
    assert torch.equal(added, torch.where(normals >= 0, 0.75, -0.25))


@pytest.mark.parametrize("made_again", [lambda a: a, sent, replace])
def test_budget_and_threat_model_are_those_of_given_parameter(made_again: Callable[[Any], Any]) -> None:
    for name in ("linf", "l2"):
        attack = made_again(make("random_noise", **{name: 0.5}))
        assert (attack.threat_model, attack.budget_name, getattr(attack, attack.budget_name)) == (name, name, 0.5)


def test_records_hold_the_given_budget() -> None:
    spec, grid = expanded(small(attacks=[{"name": "random_noise", "linf": "8/255"}, {"name": "random_noise", "l2": 2}]))
    listener = Collector()
    serial(list(grid.units()), WorkerSpec(run_id="r", metrics=spec.metrics, threads=1), listener)
    columns = ("threat_model", "budget_name", "budget", "seed", "num_forwards")
    budgets = [tuple(outcome.records[0][column] for column in columns) for outcome in listener.outcomes]
    assert budgets == [("linf", "linf", 8 / 255, 0, 0), ("l2", "l2", 2.0, 0, 0)]
    assert [outcome.records[0]["eps_native"] for outcome in listener.outcomes] == [pytest.approx(8 / 255 * 425), None]
