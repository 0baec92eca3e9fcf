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


class Tent(nn.Module):
    """The loss of class 0 is highest where a voxel is 0.53, and falls to both sides; it notes where it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.item())
        return torch.cat([torch.zeros_like(x), -100 * (x - 0.53).abs()], dim=1)


class Slopes(nn.Module):
    """Logit of class 1 as a linear function of each voxel, with a slope and an offset of its own."""

    def __init__(self, slopes: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.slopes, self.offsets = slopes, offsets

    def forward(self, x: Tensor) -> Tensor:
        score = self.slopes * x + self.offsets
        return torch.cat([torch.zeros_like(score), score], dim=1)


def doubles(batch: int = 2) -> tuple[Tensor, Tensor]:
    images, labels = volumes(batch)
    return images.double(), labels


def run(name: str, model: nn.Module | None = None, start: Tensor | None = None, **parameters: Any) -> AttackResult:
    attack = make(name, **({"eps": EPS, "loss": "ce"} | parameters))
    return attack(model or SmallNet().double(), *doubles(), generator=generators(1, 2), start=start)


# Momentum


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        (0.0, [0.5, 0.55, 0.5, 0.55, 0.5]),
        (0.5, [0.5, 0.55, 0.5, 0.55, 0.5]),  # g = 1, -1/2, 3/4, -5/8
        (1.0, [0.5, 0.55, 0.55, 0.5, 0.5]),  # g = 1, 0, -1, 0
        (2.0, [0.5, 0.55, 0.6, 0.65, 0.7]),  # g = 1, 1, 1, 1
    ],
)
def test_the_momentum_of_one_voxel_by_hand(decay: float, expected: list[float]) -> None:
    """Normalised, the gradient of one voxel is its sign; five steps of 0.05, the top between 0.5 and 0.55."""
    model, image = Tent(), torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    make("mifgsm", eps=EPS, steps=5, decay=decay)(model, image, torch.zeros_like(image, dtype=torch.long))
    assert model.asked == pytest.approx(expected, abs=1e-12)


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


@pytest.mark.parametrize("name", ["mifgsm", "tifgsm", "difgsm", "dynamic_scaling"])
def test_the_corner_of_a_linear_model_is_reached(name: str) -> None:
    """Slopes of equal sign in each half, wide enough for kernels and scales: +eps where they are positive."""
    shape = (1, 1, 24, 6, 6)
    slopes = torch.where(torch.arange(24) < 12, -1.0, 1.0)[:, None, None].expand(shape).double()
    images = torch.full(shape, 0.5, dtype=torch.float64)
    extra = {"kernel_size": 5} if name == "tifgsm" else {}
    attack = make(name, eps=0.1, steps=4, loss="ce", **extra)
    result = attack(Slopes(slopes, torch.zeros(())), images, torch.zeros_like(images, dtype=torch.long))
    assert torch.allclose(result.adversarial, images + 0.1 * slopes, rtol=0, atol=1e-12)


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


@pytest.mark.parametrize(("parameters", "sigma"), [({}, 7 / 3), ({"kernel_size": 5, "sigma": 1.5}, 1.5)])
def test_a_step_follows_the_gradient_that_scipy_smooths(parameters: dict[str, Any], sigma: float) -> None:
    """Of a model with a random slope at each voxel and both classes alike at first: the gradient is slope / 2."""
    slopes = torch.randn(1, 1, 24, 20, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    images = torch.full_like(slopes, 0.5)
    attack = make("tifgsm", eps=0.1, steps=1, loss="ce", **parameters)
    moved = attack(Slopes(slopes, -slopes / 2), images, torch.zeros_like(images, dtype=torch.long)).adversarial
    radius = parameters.get("kernel_size", 15) // 2
    smooth = torch.from_numpy(
        scipy.ndimage.gaussian_filter(slopes[0, 0].numpy(), sigma, mode="constant", radius=radius)
    )
    assert torch.allclose(moved[0, 0], 0.5 + 0.1 * smooth.sign(), rtol=0, atol=1e-12)
    assert 0.2 < float((smooth < 0).double().mean()) < 0.8


def test_every_step_of_smoothing_is_normalised_after_it() -> None:
    """Two steps in numpy, momentum 1: dividing first would weigh the two steps differently."""
    images, labels = doubles(1)
    model = SmallNet().double().eval()
    x, g = images.clone(), np.zeros(images.shape[2:])
    for _ in range(2):
        point = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), labels[:, 0]), point)
        smooth = scipy.ndimage.gaussian_filter(gradient[0, 0].numpy(), 1.0, mode="constant", radius=3)
        g = g + smooth / np.abs(smooth).sum()
        x = torch.minimum(torch.maximum(x + 0.1 * torch.from_numpy(np.sign(g)), images - 0.2), images + 0.2).clamp(0, 1)
    ours = make("tifgsm", eps=0.2, steps=2, kernel_size=7, sigma=1.0, loss="ce")(model, images, labels).adversarial
    assert torch.allclose(ours, x, rtol=0, atol=1e-12)
