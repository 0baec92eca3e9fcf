"""The minimal-norm attack where the least perturbation is known, and its formulas written out."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, Threshold, generators, volumes
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.attacks.almaprox import violations

STEP = 0.001
EVERY = (0, 1)
"""Both classes of `Threshold`: every voxel counts."""


class ThreeClasses(nn.Module):
    """`Threshold` with a third class that is nowhere predicted: the ratio of logits is defined."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.5 - x, x - 0.5, torch.full_like(x, -2.0)], dim=1)


def around_a_half(reach: float, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Volumes within `reach` of 0.5, their labels by `Threshold`, and what flips each voxel, in order `[B, N]`."""
    images = 0.5 + reach * (2 * torch.rand(batch, 1, 8, 6, 4, generator=torch.Generator().manual_seed(6)) - 1)
    return images, (images > 0.5).long(), (images - 0.5).abs().flatten(1).sort(dim=1).values


def size(images: Tensor, adversarial: Tensor) -> Tensor:
    return (adversarial - images).abs().flatten(1).amax(1)


def wrong(model: nn.Module, adversarial: Tensor, labels: Tensor) -> Tensor:
    return (model(adversarial).argmax(1, keepdim=True) != labels).flatten(1).double().mean(1)


@pytest.mark.parametrize(("share", "model"), [(0.9, Threshold()), (0.5, ThreeClasses()), (1.0, ThreeClasses())])
def test_almaprox_finds_least_perturbation_of_threshold_model(share: float, model: nn.Module) -> None:
    """The voxel in rank ceil(share N) needs |x - 0.5|: never less is found, and at most two steps more."""
    images, labels, needed = around_a_half(0.05)
    least = needed[:, math.ceil(share * needed.shape[1]) - 1]
    attack = make("almaprox", share=share, steps=120, step_size=STEP, organs=EVERY)
    adversarial = attack(model, images, labels).adversarial
    assert (wrong(model, adversarial, labels) >= share).all()
    sizes = size(images, adversarial)
    assert (sizes >= least - 1e-6).all()
    assert (sizes <= least + 2 * STEP).all()


def test_result_without_a_success_has_most_wrong_voxels() -> None:
    images, labels, _ = around_a_half(0.02)
    frozen = torch.zeros_like(labels, dtype=torch.bool)
    frozen[..., :2] = True

    class Half(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(frozen, super().forward(images), super().forward(x))

    adversarial = make("almaprox", share=0.9, steps=120, organs=EVERY)(Half(), images, labels).adversarial
    assert float(wrong(Half(), adversarial, labels)) == 0.5
    assert torch.equal(adversarial[frozen], images[frozen])


@pytest.mark.parametrize("organ", [0, 1])
def test_only_the_organs_are_constraints(organ: int) -> None:
    images, labels, _ = around_a_half(0.05)
    images = torch.where(labels == 1, 0.5 + (images - 0.5) / 4, images)  # class 1 is flipped by a quarter
    least = float((images - 0.5).abs()[labels == organ].max())
    adversarial = make("almaprox", share=1.0, organs=(organ,), steps=120)(Threshold(), images, labels).adversarial
    assert torch.equal(adversarial[labels != organ], images[labels != organ])
    assert least - 1e-6 <= float(size(images, adversarial)) <= least + 2 * STEP


@pytest.mark.parametrize("changes", [{}, {"target": "next-class"}], ids=str)
def test_all_classes_but_background_count_without_organs(changes: dict[str, Any]) -> None:
    """99 % of a volume may be had without a voxel of an organ."""
    images, labels = volumes()
    left, named = (
        make("almaprox", share=0.9, steps=25, step_size=0.02, **organs, **changes)(SmallNet(), images, labels)
        for organs in ({}, {"organs": (1, 2)})
    )
    assert torch.equal(left.adversarial, named.adversarial)


@pytest.mark.integration
@pytest.mark.parametrize("changes", [{"target": "next-class"}, {"target": ("swap", 0, 1)}, {"targeted": True}], ids=str)
def test_a_target_is_reached_by_the_least_perturbation_too(changes: dict[str, Any]) -> None:
    images, labels, needed = around_a_half(0.05)
    given = 1 - labels if "targeted" in changes else labels
    attack = make("almaprox", share=1.0, steps=120, **({} if "targeted" in changes else {"organs": EVERY}), **changes)
    adversarial = attack(Threshold(), images, given).adversarial
    assert torch.equal((adversarial > 0.5).long(), 1 - labels)
    assert (size(images, adversarial) <= needed[:, -1] + 2 * STEP).all()


def test_samples_with_organs_of_other_sizes_are_independent() -> None:
    """The number of constraints that are left out is each sample's own; one has none at all."""
    images, labels = volumes(3)
    labels[1] = labels[1].clamp(max=1)
    labels[2, ..., :3] = 0
    attack = make("almaprox", share=0.7, organs=(2,), steps=25, step_size=0.02)
    batch = attack(SmallNet(), images, labels, generator=generators(1, 2, 3)).adversarial
    singles = [attack(SmallNet(), images[i : i + 1], labels[i : i + 1]).adversarial for i in range(3)]
    assert torch.allclose(batch, torch.cat(singles), atol=1e-5)
    assert torch.equal(batch[1], images[1])


def written_out(z: np.ndarray, y: int, towards: bool) -> float:
    """Distance of a voxel to success, from its logits."""
    margin = z[y] - np.delete(z, y).max()
    lacking = (-margin if towards else margin) + 1e-4
    down = np.sort(z)[::-1]
    if len(z) == 2:
        return float(lacking)
    lowest = (down[2] + down[3]) / 2 if towards and len(z) > 3 else down[2]
    return float(lacking / (down[0] - lowest))


@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize("towards", [False, True])
def test_constraints_are_the_papers_ratio(num_classes: int, towards: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, num_classes, 3, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes, (2, 1, 3, 2, 2), generator=generator)
    lacking, reached = violations(logits, labels, towards)
    voxels = zip(logits.movedim(1, -1).reshape(-1, num_classes).numpy(), labels.flatten().tolist(), strict=True)
    assert lacking.flatten().tolist() == pytest.approx([written_out(z, y, towards) for z, y in voxels], abs=1e-6)
    assert torch.equal(reached, (logits.argmax(1, keepdim=True) == labels) == towards)
