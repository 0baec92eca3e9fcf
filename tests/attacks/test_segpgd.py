"""SegPGD and CosPGD: formulas of the papers' objectives, what they move, and which variants couple a batch."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attacks.examples import Threshold
from attacks.small import Net, volumes
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make

BOTH = pytest.mark.parametrize("name", ["segpgd", "cospgd"])


def attack(name: str, model: nn.Module, images: Tensor, labels: Tensor, **parameters: Any) -> AttackResult:
    """Without a random start, in a ball that is wide enough."""
    return make(name, **{"eps": 0.5, "step_size": 0.01, "random_start": False} | parameters)(model, images, labels)


def terms(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, cosine to the label and correctness of every voxel of the small network, `[B, N]`, by torch."""
    logits, one_hot = Net().double()(images).detach(), F.one_hot(labels[:, 0], 3).movedim(-1, 1).double()
    entropy = F.cross_entropy(logits, labels[:, 0], reduction="none")
    cosine = F.cosine_similarity(logits.softmax(1), one_hot, dim=1)
    return entropy.flatten(1), cosine.flatten(1), (logits.argmax(1) == labels[:, 0]).flatten(1)


@pytest.mark.parametrize("targeted", [False, True])
def test_segpgd_weighs_right_and_wrong_voxels_by_a_schedule(targeted: bool) -> None:
    """Steps of length 0 show the objective of every step at one place; lambda is 0, 1/8, 1/4, 3/8 of four steps."""
    images, labels = volumes(dtype=torch.float64)
    entropy, _, right = terms(images, labels)
    resists = ~right if targeted else right
    expected = [(torch.where(resists, 1 - s, s) * entropy).mean(1) for s in (0, 1 / 8, 1 / 4, 3 / 8)]
    losses = attack("segpgd", Net().double(), images, labels, steps=4, step_size=0.0, targeted=targeted).losses
    assert torch.allclose(losses, (-1 if targeted else 1) * torch.stack(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("targeted", [False, True])
def test_cospgd_weighs_every_voxel_by_its_cosine(targeted: bool) -> None:
    images, labels = volumes(dtype=torch.float64)
    entropy, cosine, _ = terms(images, labels)
    expected = -((1 - cosine) * entropy).mean(1) if targeted else (cosine * entropy).mean(1)
    losses = attack("cospgd", Net().double(), images, labels, steps=1, targeted=targeted).losses
    assert torch.allclose(losses[0], expected, rtol=1e-12, atol=0)


@BOTH
def test_wrong_voxels_keep_moving_to_the_edge_of_the_ball(name: str) -> None:
    """A cosine that were differentiated too would hold voxels where their label is unlikely, but not impossible."""
    model, images = Threshold(20), torch.linspace(0.25, 0.75, 64, dtype=torch.float64).reshape(1, 1, 4, 4, 4)
    labels = (images > 0.5).long()
    labels.flatten()[::2] ^= 1
    moved = attack(name, model, images, labels, steps=20, eps=0.2, step_size=0.02).adversarial - images
    assert bool((moved * (1 - 2 * labels) >= 0.2 - 0.02 - 1e-9).all())


@BOTH
@pytest.mark.parametrize("variant", ["released", "released-bmvc"])
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
