"""The transfer attacks against sequences by hand, scipy's smoothing and torch's interpolation."""

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from attacks.examples import SmallNet, Threshold, generators, volumes
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make

EPS = 0.25


def doubles(batch: int = 2) -> tuple[Tensor, Tensor]:
    images, labels = volumes(batch)
    return images.double(), labels


def run(name: str, model: nn.Module | None = None, start: Tensor | None = None, **parameters: Any) -> AttackResult:
    attack = make(name, **({"eps": EPS, "loss": "ce"} | parameters))
    return attack(model or SmallNet().double(), *doubles(), generator=generators(1, 2), start=start)


# Momentum


class Hills(nn.Module):
    """A gradient whose size and sign change from step to step and from voxel to voxel."""

    def forward(self, x: Tensor) -> Tensor:
        top = torch.linspace(0.3, 0.7, x[0].numel(), dtype=x.dtype).reshape(x[:1].shape)
        return torch.cat([torch.zeros_like(x), -40 * (x - top).square()], dim=1)


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_recurrence_in_numpy(decay: float) -> None:
    """Cross-entropy of class 0: softplus(s) with s = -40 (x - top)^2; the second sample starts elsewhere."""
    images = torch.rand(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.zeros_like(images, dtype=torch.long)
    result = make("mifgsm", eps=0.2, steps=6, decay=decay, loss="ce")(Hills(), images, labels)

    x0 = images.numpy().reshape(2, 12)
    top, x, g = np.linspace(0.3, 0.7, 12), x0, np.zeros_like(x0)
    for _ in range(6):
        s = -40 * (x - top) ** 2
        gradient = (1 / (1 + np.exp(-s))) * (-80 * (x - top)) / 12
        g = decay * g + gradient / np.abs(gradient).sum(axis=1, keepdims=True)
        x = np.clip(np.clip(x + 0.2 / 6 * np.sign(g), x0 - 0.2, x0 + 0.2), 0, 1)
    assert np.allclose(result.adversarial.numpy().reshape(2, 12), x, rtol=0, atol=1e-12)


PLAIN = [
    ("mifgsm", {"decay": 0.0, "steps": 5}, ("bim", {"steps": 5, "step_size": "eps/5"})),
    ("mifgsm", {"decay": 0.0, "step_size": 0.01}, ("bim", {"steps": 10})),
    ("tifgsm", {"kernel_size": 1}, ("mifgsm", {})),
    ("difgsm", {"probability": 0.0}, ("mifgsm", {})),
    ("difgsm", {"min_scale": 1.0}, ("mifgsm", {})),
    ("difgsm", {"probability": 0.0, "decay": 0.0, "steps": 5}, ("bim", {"steps": 5, "step_size": "eps/5"})),
    ("dynamic_scaling", {"min_scale": 1.0, "max_scale": 1.0}, ("mifgsm", {})),
]


@pytest.mark.parametrize("shared", [{}, {"loss": "dicece"}, {"organs": (1,), "keep": "best"}], ids=str)
@pytest.mark.parametrize(("name", "own", "other"), PLAIN, ids=str)
def test_without_its_own_part_an_attack_is_the_plain_one(name: str, own: Any, other: Any, shared: Any) -> None:
    ours, theirs = run(name, **own, **shared), run(other[0], **other[1], **shared)
    assert torch.equal(ours.adversarial, theirs.adversarial)
    assert torch.equal(ours.losses, theirs.losses)


@pytest.mark.parametrize(("step_size", "step"), [(None, 0.025), ("eps/2", 0.05), (0.02, 0.02), (1, 1.0)])
def test_a_step_is_eps_over_steps_unless_given(step_size: Any, step: float) -> None:
    attack = make("mifgsm", eps=0.1, steps=4, step_size=step_size)
    moved = attack(Threshold(), torch.full((1, 1, 2, 2, 2), 0.4), torch.zeros(1, 1, 2, 2, 2, dtype=torch.long))
    assert attack.step == pytest.approx(step)  # type: ignore[attr-defined]
    assert float(moved.adversarial.max()) == pytest.approx(0.4 + min(0.1, 4 * step))


# Smoothing


@pytest.mark.parametrize(("kernel", "sigma"), [({}, 7 / 3), ({"kernel_size": 7, "sigma": 1.0}, 1.0)], ids=str)
def test_a_step_follows_the_gradient_that_scipy_smooths_and_is_normalised_after_it(kernel: Any, sigma: float) -> None:
    """Two steps in numpy, momentum 1: dividing first would weigh the two steps differently."""
    images, labels = doubles(1)
    model, radius = SmallNet().double().eval(), kernel.get("kernel_size", 15) // 2
    x, g = images.clone(), np.zeros(images.shape[2:])
    for _ in range(2):
        point = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), labels[:, 0]), point)
        smooth = scipy.ndimage.gaussian_filter(gradient[0, 0].numpy(), sigma, mode="constant", radius=radius)
        g = g + smooth / np.abs(smooth).sum()
        x = torch.minimum(torch.maximum(x + 0.1 * torch.from_numpy(np.sign(g)), images - 0.2), images + 0.2).clamp(0, 1)
    ours = make("tifgsm", eps=0.2, steps=2, loss="ce", **kernel)(model, images, labels).adversarial
    assert torch.allclose(ours, x, rtol=0, atol=1e-12)
