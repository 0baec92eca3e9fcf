"""Voxels without a label: no attack's result depends on what a network says there, and none is judged by them."""

from functools import partial
from typing import Any

import pytest
import torch
from attacks.examples import CLASSES, SmallNet, example, generators, volumes
from tiers import quick
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.attacks.core.objective import Objective
from freqbench.core.errors import UserError
from freqbench.core.types import IGNORED
from freqbench.ops.losses import FEWEST_CLASSES, LOSSES, Scope, mean_dice

MOVING = ("difgsm", "dynamic_scaling", "deformation")  # what a network says lies elsewhere before it is mapped back


class Elsewhere(nn.Module):
    """A network that says something else, in some voxels: class 2 where `sign` is 1, class 0 where it is -1."""

    def __init__(self, voxels: Tensor, sign: float) -> None:
        super().__init__()
        self.net, self.voxels, self.sign = SmallNet(), voxels, sign

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        other = self.sign * 20 * torch.cat([-x[:, :1], 0 * x[:, :1], x[:, :1]], dim=1)
        return torch.where(self.voxels.expand(len(x), -1, -1, -1, -1), other, logits)


def labelled() -> tuple[Tensor, Tensor, Tensor]:
    """Volumes, labels of which a slab is ignored, and the slab."""
    images, labels = volumes()
    voxels = torch.zeros(1, 1, *labels.shape[2:], dtype=torch.bool)
    voxels[:, :, 5:] = True
    return images, torch.where(voxels, IGNORED, labels), voxels


@pytest.mark.parametrize(
    "name", quick([name for name in CLASSES if name not in MOVING], "pgd", "vafa", "square", "faa")
)
def test_logits_in_voxels_without_a_label_change_no_attack(name: str) -> None:
    images, labels, voxels = labelled()
    attack = example(name)

    def attacked(sign: float) -> Tensor:
        model, cases = Elsewhere(voxels, sign).eval(), list(zip(images.flip(3), labels, strict=True))
        needs = attack.supplied(
            reference=images.square,
            learned=partial(attack.learn, model, cases, tuple(images.shape[2:]), torch.Generator().manual_seed(3)),
            surrogates=lambda: [Elsewhere(voxels, sign).eval() for _ in range(2)],
        )
        return attack(model, images, labels, generator=generators(1, 2), **needs).adversarial

    torch.testing.assert_close(attacked(1.0), attacked(-1.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MOVING)
def test_attacks_that_move_volumes_take_labels_with_gaps(name: str) -> None:
    images, labels, _ = labelled()
    assert not torch.equal(example(name)(SmallNet(), images, labels, generator=generators(1, 2)).adversarial, images)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "dlr-targeted"])
@pytest.mark.parametrize("organs", [None, (0, 2)])
def test_loss_and_success_are_those_of_the_labelled_part(loss: str, organs: tuple[int, ...] | None) -> None:
    assert FEWEST_CLASSES.get(loss, 0) <= 3
    images, labels, _ = labelled()
    logits = SmallNet()(images.double().float()).detach()
    whole, part = Objective.of(labels.long()), Objective.of(labels[:, :, :5].long())
    for objective in (whole, part):
        objective.aim(loss, organs, None)
    assert part.counted is None
    for of in (Objective.raised, Objective.success):
        torch.testing.assert_close(of(whole, logits), of(part, logits[:, :, :5]), rtol=1e-5, atol=1e-6)


def test_a_sample_is_reached_by_its_labelled_voxels_alone() -> None:
    labels = torch.full((2, 1, 2, 2, 2), IGNORED)
    labels[:, :, 0] = 1
    logits = torch.zeros(2, 3, 2, 2, 2)
    logits[:, 0, 1], logits[0, 2, 0], logits[1, 1, 0] = 9.0, 9.0, 9.0  # the first is wrong where it counts
    assert Objective.of(labels).is_reached(logits).tolist() == [True, False]


def test_dice_of_voxels_that_count_is_that_of_the_part() -> None:
    logits, labels = (
        torch.randn(2, 3, 4, 4, 4, generator=generators(0)[0]),
        torch.zeros(2, 1, 4, 4, 4, dtype=torch.long),
    )
    labels[0, :, 1:, 2:] = 2
    counts = torch.zeros_like(labels, dtype=torch.bool)
    counts[:, :, 1:] = True
    for classes in (None, (0, 2)):
        score = mean_dice(logits, labels, classes, counts)
        torch.testing.assert_close(score, mean_dice(logits[:, :, 1:], labels[:, :, 1:], classes))


@pytest.mark.parametrize("settings", [{}, {"target": "next-class"}, {"organs": (0,)}, {"target": ("erase", 1)}])
def test_no_gradient_comes_from_voxels_without_a_label(settings: dict[str, Any]) -> None:

    class Voxelwise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([-x, (x - 0.5).square(), x], dim=1)

    images, labels, voxels = labelled()
    changed = make("bim", eps=0.1, steps=3, **settings)(Voxelwise(), images, labels).adversarial != images
    assert not changed[voxels.expand_as(changed)].any()
    assert changed.any()


def test_a_network_with_a_class_255_is_refused() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.expand(-1, IGNORED + 1, -1, -1, -1)

    images, labels, _ = labelled()
    with pytest.raises(UserError, match=f"expected at most {IGNORED} classes of a model beside voxels that do not"):
        make("fgsm", eps=0.1)(Many(), images, labels)


def test_labels_without_gaps_have_no_mask() -> None:
    assert Objective.of(volumes()[1].long()).scope == Scope()
