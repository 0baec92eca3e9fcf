"""SegPGD and CosPGD: formulas of the objectives, what each variant moves, and which couple a batch."""

from typing import Any

import numpy as np
import pytest
import torch
from attacks.small import Net, volumes
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make

STEP = 0.01
BOTH = pytest.mark.parametrize("name", ["segpgd", "cospgd"])
RELEASED = pytest.mark.parametrize("variant", ["released", "released-bmvc"])


class Threshold(nn.Module):
    """Class 1 where a voxel is above 0.5, the surer the further from it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.5 - x, x - 0.5], dim=1) * 20


def attack(name: str, model: nn.Module, images: Tensor, labels: Tensor, **parameters: Any) -> AttackResult:
    """Without a random start, in a ball that is wide enough."""
    chosen = {"eps": 0.5, "step_size": STEP, "random_start": False} | parameters
    return make(name, **chosen)(model, images, labels)


def ramp() -> tuple[Tensor, Tensor]:
    """Intensities on both sides of 0.5, half of the labels right."""
    images = torch.linspace(0.25, 0.75, 64, dtype=torch.float64).reshape(1, 1, 4, 4, 4)
    labels = (images > 0.5).long()
    labels.flatten()[::2] ^= 1
    return images, labels


def away_from(labels: Tensor) -> Tensor:
    """The direction in which a voxel of the threshold model leaves its label."""
    return 1 - 2 * labels


def terms(images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cross-entropy, cosine and correctness of every voxel of the small network, `[B, N]`, by hand."""
    logits = Net().double()(images).detach().numpy()
    batch, classes = logits.shape[:2]
    p = np.exp(logits).reshape(batch, classes, -1)
    p /= p.sum(axis=1, keepdims=True)
    index = labels.reshape(batch, -1).numpy()
    own = np.take_along_axis(p, index[:, None], axis=1)[:, 0]
    return -np.log(own), own / np.sqrt((p**2).sum(axis=1)), p.argmax(axis=1) == index


@pytest.mark.parametrize("targeted", [False, True])
def test_segpgd_weighs_right_and_wrong_voxels_by_a_schedule(targeted: bool) -> None:
    """Steps of length 0 show the objective of every step at one place; lambda is 0, 1/8, 1/4, 3/8 of four steps."""
    images, labels = volumes(dtype=torch.float64)
    entropy, _, right = terms(images, labels)
    resists = ~right if targeted else right
    expected = [np.where(resists, 1 - share, share) * entropy for share in (0, 1 / 8, 1 / 4, 3 / 8)]
    found = attack("segpgd", Net().double(), images, labels, steps=4, step_size=0.0, targeted=targeted).losses
    sign = -1 if targeted else 1
    assert np.allclose(found.numpy(), [sign * each.mean(axis=1) for each in expected], rtol=1e-12)


@pytest.mark.parametrize("targeted", [False, True])
def test_cospgd_weighs_every_voxel_by_its_cosine(targeted: bool) -> None:
    images, labels = volumes(dtype=torch.float64)
    entropy, cosine, _ = terms(images, labels)
    expected = -((1 - cosine) * entropy).mean(axis=1) if targeted else (cosine * entropy).mean(axis=1)
    found = attack("cospgd", Net().double(), images, labels, steps=1, targeted=targeted).losses
    assert np.allclose(found[0].numpy(), expected, rtol=1e-12)


@BOTH
def test_no_voxel_is_let_go_once_it_is_wrong(name: str) -> None:
    """A cosine that were differentiated too would hold voxels where their label is unlikely, but not impossible."""
    images, labels = ramp()
    result = attack(name, Threshold(), images, labels, steps=20, eps=0.2, step_size=0.02)
    last = result.adversarial - images
    assert bool((last * away_from(labels) >= 0.2 - 0.02 - 1e-9).all())


@BOTH
@RELEASED
def test_released_copies_couple_a_batch_and_the_paper_does_not(name: str, variant: str) -> None:
    images, labels = volumes(dtype=torch.float64)
    labels[1, ..., :3] = Net().double()(images[1:]).argmax(dim=1)[..., :3]  # mostly right, beside a sample that is not
    for form, couples in (("paper", False), (variant, True)):
        assert make(name, eps=0.5, variant=form).couples_batch == couples
        options: dict[str, Any] = {"steps": 6, "variant": form, "step_size": 0.05}
        batch = attack(name, Net().double(), images, labels, **options)
        alone = [attack(name, Net().double(), images[i : i + 1], labels[i : i + 1], **options) for i in range(2)]
        is_equal = torch.allclose(batch.adversarial, torch.cat([each.adversarial for each in alone]), atol=1e-9)
        assert is_equal != couples
        assert batch.losses.shape == ((6,) if couples else (6, 2))
