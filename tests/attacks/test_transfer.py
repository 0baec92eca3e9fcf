"""The transfer attacks against sequences by hand, scipy's smoothing and torch's interpolation."""

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from attacks.asked import Asked, entropies
from attacks.examples import SmallNet, generators, of_class, volumes
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make

EPS = 0.25


def doubles(batch: int = 2) -> tuple[Tensor, Tensor]:
    images, labels = volumes(batch)
    return images.double(), labels


def run(name: str, model: nn.Module | None = None, start: Tensor | None = None, **parameters: Any) -> AttackResult:
    attack = make(name, **({"eps": EPS, "loss": "ce"} | parameters))
    return attack(model or SmallNet().double(), *doubles(), generator=generators(1, 2), start=start)


class Hills(nn.Module):
    """A gradient whose size and sign change from step to step and from voxel to voxel."""

    def forward(self, x: Tensor) -> Tensor:
        top = torch.linspace(0.3, 0.7, x[0].numel(), dtype=x.dtype).reshape(x[:1].shape)
        return torch.cat([torch.zeros_like(x), -40 * (x - top).square()], dim=1)


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_mifgsm_equals_its_recurrence_in_numpy(decay: float) -> None:
    """Cross-entropy of class 0: softplus(s) with s = -40 (x - top)^2; the second sample starts elsewhere."""
    images = torch.rand(2, 1, 3, 2, 2, dtype=torch.float64)
    labels = of_class(images)
    result = make("mifgsm", eps=0.2, steps=6, decay=decay, loss="ce")(Hills(), images, labels)

    x0 = images.numpy().reshape(2, 12)
    top = np.linspace(0.3, 0.7, 12)
    x = x0
    g = np.zeros_like(x0)
    for _ in range(6):
        s = -40 * (x - top) ** 2
        gradient = (1 / (1 + np.exp(-s))) * (-80 * (x - top)) / 12
        g = decay * g + gradient / np.abs(gradient).sum(axis=1, keepdims=True)
        x = np.clip(np.clip(x + 0.2 / 6 * np.sign(g), x0 - 0.2, x0 + 0.2), 0, 1)
    assert np.allclose(result.adversarial.numpy().reshape(2, 12), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shared", [{}, {"loss": "dicece"}, {"organs": (1,), "keep": "best"}], ids=str)
@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        ("mifgsm", {"decay": 0.0, "steps": 5}, ("bim", {"steps": 5, "step_size": "eps/5"})),
        ("mifgsm", {"decay": 0.0, "step_size": 0.01}, ("bim", {"steps": 10})),
        ("tifgsm", {"kernel_size": 1}, ("mifgsm", {})),
        ("difgsm", {"probability": 0.0}, ("mifgsm", {})),
        ("difgsm", {"min_scale": 1.0}, ("mifgsm", {})),
        ("dynamic_scaling", {"min_scale": 1.0, "max_scale": 1.0}, ("mifgsm", {})),
    ],
    ids=str,
)
def test_transfer_attacks_without_their_part_are_mifgsm(name: str, own: Any, other: Any, shared: Any) -> None:
    ours = run(name, **own, **shared)
    theirs = run(other[0], **other[1], **shared)
    assert torch.equal(ours.adversarial, theirs.adversarial)
    assert torch.equal(ours.losses, theirs.losses)


@pytest.mark.parametrize(("kernel", "sigma"), [({}, 7 / 3), ({"kernel_size": 7, "sigma": 1.0}, 1.0)], ids=str)
def test_tifgsm_normalises_the_gradient_after_smoothing_it(kernel: Any, sigma: float) -> None:
    """Two steps in numpy, momentum 1: dividing first would weigh the two steps differently."""
    images, labels = doubles(1)
    model = SmallNet().double().eval()
    radius = kernel.get("kernel_size", 15) // 2
    x = images.clone()
    g = np.zeros(images.shape[2:])
    for _ in range(2):
        point = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), labels[:, 0]), point)
        smooth = scipy.ndimage.gaussian_filter(gradient[0, 0].numpy(), sigma, mode="constant", radius=radius)
        g = g + smooth / np.abs(smooth).sum()
        x = torch.minimum(torch.maximum(x + 0.1 * torch.from_numpy(np.sign(g)), images - 0.2), images + 0.2).clamp(0, 1)
    ours = make("tifgsm", eps=0.2, steps=2, loss="ce", **kernel)(model, images, labels).adversarial
    assert torch.allclose(ours, x, rtol=0, atol=1e-12)


def resized(x: Tensor, *shape: int) -> Tensor:
    return F.interpolate(x, size=shape, mode="trilinear", align_corners=False)


def draws(*step: float) -> Tensor:
    """The same single step for both samples."""
    return torch.tensor(step, dtype=torch.float64).expand(2, 1, -1)


def test_difgsm_shows_a_smaller_volume_and_maps_logits_back() -> None:
    """Ratio 0.5 + 0.5 * 0.5 of 8 x 6 x 4, rounded half up: 6 x 5 x 3, moved by 2 of 2, 0 of 1 and 1 of 1."""
    images, labels = doubles()
    model = Asked(SmallNet().double())
    result = run("difgsm", model, draws(0.49, 0.5, 0.9, 0.2, 0.7), steps=1, min_scale=0.5)
    x = images.clone().requires_grad_()
    shown = F.pad(resized(x, 6, 5, 3), (1, 0, 0, 1, 2, 0))
    assert torch.allclose(model.volumes[0], shown.detach(), rtol=0, atol=1e-12)
    logits = resized(SmallNet().double().eval()(shown)[:, :, 2:8, 0:5, 1:4], 8, 6, 4)
    losses = F.cross_entropy(logits, labels[:, 0], reduction="none").flatten(1).mean(1)
    assert torch.allclose(result.losses[0], losses.detach(), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    clear = gradient.abs() > 1e-9
    assert torch.equal((result.adversarial - images).sign()[clear], gradient.sign()[clear])


def test_difgsm_draws_sizes_and_places_for_every_step_and_sample() -> None:
    """A white volume shows its box; ratios of 0.5 to 1 make sides of 4 to 8."""
    model = Asked(SmallNet().double())
    images = torch.ones(2, 1, 8, 8, 8, dtype=torch.float64)
    attack = make("difgsm", eps=0.0, steps=40, probability=1.0, min_scale=0.5)
    attack(model, images, of_class(images), generator=generators(1, 2))
    shown = torch.cat(model.volumes)[:, 0]
    corners = torch.stack([volume.nonzero()[[0, -1]] for volume in shown])
    sides = corners[:, 1] - corners[:, 0] + 1
    assert all(len(of_sample.unique(dim=0)) > 20 for of_sample in (corners[::2], corners[1::2]))
    assert (corners[::2] == corners[1::2]).all((1, 2)).sum() < 10
    assert sides.unique().tolist() == [4, 5, 6, 7, 8]
    assert (sides == sides[:, :1]).all()


def test_dynamic_scaling_counts_the_shown_part_alone() -> None:
    """Ratio 0.5 + 1.5 * 2/3 of 8 x 6 x 4: 12 x 9 x 6, from 4 of 4, 1 of 3 and 0 of 2 on."""
    images, labels = doubles()
    model = Asked(SmallNet().double())
    result = run("dynamic_scaling", model, draws(2 / 3, 0.9, 0.3, 0.1), steps=1, min_scale=0.5, max_scale=2.0)
    assert torch.allclose(model.volumes[0], resized(images, 12, 9, 6)[:, :, 4:12, 1:7, 0:4], rtol=0, atol=1e-12)
    logits = resized(F.pad(model.logits[0], (0, 2, 1, 2, 4, 0)), 8, 6, 4)
    losses = F.cross_entropy(logits, labels[:, 0], reduction="none")
    # Middles at 1.5 i + 0.25 between 4 and 11, 1 and 6, 0 and 3.
    losses = losses[:, 3:8, 1:4, 0:2].flatten(1).mean(1)
    assert torch.allclose(result.losses[0], losses, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("labelled", "raises"), [(7, True), (0, False)], ids=["in sight", "out of sight"])
def test_organs_count_only_in_sight(labelled: int, raises: bool) -> None:
    images, labels = doubles()
    labels = torch.zeros_like(labels)
    labels[:, :, labelled] = 1
    attack = make("dynamic_scaling", eps=EPS, steps=1, organs=(1,), loss="ce", min_scale=0.5, max_scale=2.0)
    result = attack(SmallNet().double(), images, labels, start=draws(2 / 3, 0.9, 0.3, 0.1))
    assert bool((result.losses > 0).all()) == raises
    assert torch.equal(result.adversarial, images) != raises


@pytest.mark.parametrize("name", ["difgsm", "dynamic_scaling"])
def test_keep_best_compares_volumes_that_are_not_resized(name: str) -> None:
    images, labels = doubles()
    model = Asked(SmallNet().double())
    result = run(name, model, steps=4, keep="best", step_size=EPS, min_scale=0.5)
    declared = make(name, eps=EPS, steps=4, keep="best").passes
    assert (len(model.volumes), result.num_forwards, result.num_backwards) == (9, 9, 4) == (9, *declared)
    assert torch.equal(model.volumes[0], images)
    values = entropies(model, labels)[::2]
    for i, k in enumerate(values.argmax(0).tolist()):
        assert torch.equal(result.adversarial[i], model.volumes[2 * k][i])
