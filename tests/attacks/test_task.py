"""Tasks in which only some structures count: values to raise and to compare, samples that are reached."""

import pytest
import torch
from attacks.asked import Asked, entropies
from attacks.examples import SmallNet, volumes
from attacks.small import BOTH, Fixed, attack
from torch import Tensor, nn

from freqbench.attacks.core.targets import Rule
from freqbench.attacks.core.task import Task


def task_on(labels: Tensor, organs: tuple[int, ...] | None, rule: Rule | None, loss: str = "dice") -> Task:
    images, _ = volumes()
    task = Task("pgd", SmallNet().eval(), images, labels, targeted=False)
    task.aim(loss, organs, rule)
    return task


def dice_terms(logits: Tensor, labels: Tensor, voxels: Tensor) -> Tensor:
    """1 - Dice of every class on some voxels alone, `[B, K]`, as the released loss has it."""
    p = logits.softmax(1) * voxels
    o = torch.stack([(labels[:, 0] == k).double() for k in range(logits.shape[1])], dim=1) * voxels
    both = (p * o).flatten(2).sum(2)
    return 1 - 2 * both / ((p**2 + o).flatten(2).sum(2) + 1e-6)


def test_dice_away_from_the_truth_is_the_mean_over_the_organs() -> None:
    _, labels = volumes()
    task = task_on(labels, (0, 2), None)
    logits = task.logits(task.clean)
    terms = dice_terms(logits, labels, labels != 1)
    assert torch.allclose(task.objective.raised(logits).double(), (terms[:, 0] + terms[:, 2]) / 2, atol=1e-6)


def test_dice_towards_a_target_is_the_mean_over_all_classes() -> None:
    _, labels = volumes()
    task = task_on(labels, (2,), ("swap", 1, 2))
    logits = task.logits(task.clean)
    target = torch.where(labels == 0, 0, 3 - labels)
    assert torch.equal(task.objective.labels, target)
    expected = -dice_terms(logits, target, labels == 2).mean(1)
    assert torch.allclose(task.objective.raised(logits).double(), expected, atol=1e-6)


@pytest.mark.parametrize("rule", [None, "next-class"])
def test_a_sample_is_reached_by_its_organs_alone(rule: Rule | None) -> None:
    """Every voxel of class 1 is predicted as 2, all others as labelled."""
    _, labels = volumes()
    logits = nn.functional.one_hot(torch.where(labels == 1, 2, labels)[:, 0], 3).movedim(-1, 1).float()
    for organs, reached in (((1,), True), ((1, 2), False), (None, False)):
        task = task_on(labels, organs, rule)
        task.logits(task.clean)
        assert task.objective.is_reached(logits).tolist() == [reached] * 2


@BOTH
def test_a_stopped_sample_stays_stopped(name: str) -> None:
    passes = iter([1, 0, 0, 0])
    turning = nn.Module()
    images = volumes()[0]
    turning.forward = lambda x: Fixed(next(passes), 0.1)(x)
    labels = torch.zeros(images.shape, dtype=torch.long)
    long = attack(name, steps=4, ssim_weight=0.0)(turning, images, labels)
    short = attack(name, steps=1, ssim_weight=0.0)(Fixed(1, 0.1), images, labels)
    assert torch.equal(long.adversarial, short.adversarial)


@BOTH
def test_best_of_frequency_attack_has_highest_objective(name: str) -> None:
    """The SSIM loss with it, as recorded before each step; other volumes have the highest task loss."""
    images, labels = volumes()
    model = Asked(SmallNet())
    result = attack(name, steps=6, keep="best", loss="ce", ssim_weight=5.0)(model, images, labels)
    highest = result.losses.argmax(0)
    assert not torch.equal(highest, entropies(model, labels).argmax(0))
    for i, k in enumerate(highest.tolist()):
        assert torch.equal(result.adversarial[i], model.volumes[k][i].clamp(0, 1))
