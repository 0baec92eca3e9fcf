"""The fused Dice, alone and with cross-entropy, against MONAI, the golden oracles and finite differences."""

import numpy as np
import pytest
import torch
from golden.network import Find, reference_network
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from freqbench.ops.losses import Loss, dice, dice_ce
from freqbench.ops.voxel_losses import EVERYTHING

ARGUMENTS = {"softmax": True, "to_onehot_y": True, "squared_pred": True, "smooth_nr": 0, "smooth_dr": 1e-6}
each_loss = pytest.mark.parametrize(
    ("loss", "monai"), [(dice_ce, DiceCELoss(**ARGUMENTS)), (dice, DiceLoss(**ARGUMENTS))], ids=["dicece", "dice"]
)


def random_task(batch: int = 2, num_classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(batch, num_classes, 6, 5, 4, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, num_classes, (batch, 1, 6, 5, 4), generator=generator)


@each_loss
def test_mean_over_samples_equals_monai(loss: Loss, monai: nn.Module) -> None:
    logits, labels = random_task()
    assert float(loss(logits, labels, EVERYTHING).mean()) == pytest.approx(float(monai(logits, labels)), abs=1e-7)


@each_loss
def test_gradient_equals_monai(loss: Loss, monai: nn.Module) -> None:
    logits, labels = random_task()
    (ours,) = torch.autograd.grad(loss(logits, labels, EVERYTHING).mean(), logits)
    (theirs,) = torch.autograd.grad(monai(logits, labels), logits)
    assert torch.allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("loss", [dice_ce, dice])
def test_gradient_equals_finite_differences(loss: Loss) -> None:
    logits, labels = random_task(num_classes=3)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, EVERYTHING), (logits,))


def test_a_sample_does_not_know_its_batch() -> None:
    logits, labels = random_task()
    assert torch.equal(dice_ce(logits, labels)[1:], dice_ce(logits[1:], labels[1:]))


def test_absent_class_adds_one_to_the_mean() -> None:
    """A perfect prediction of labels that lack one of four classes loses exactly a quarter."""
    labels = torch.tensor([0, 1, 2, 0]).reshape(1, 1, 4, 1, 1)
    logits = 200.0 * torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1).double()
    assert float(dice_ce(logits, labels)) == pytest.approx(0.25, abs=1e-6)


def test_large_volume_in_float32_keeps_six_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, 64, 64, 64, generator=generator)
    labels = torch.randint(0, 6, (1, 1, 64, 64, 64), generator=generator)
    assert float(dice_ce(logits, labels)) == pytest.approx(float(dice_ce(logits.double(), labels)), rel=1e-6)


@pytest.mark.parametrize(
    ("key", "batch", "relabel"),
    [
        ("dicece_B1", 1, lambda y: y),
        ("dicece_B2", 2, lambda y: y),
        ("dicece_B1_class3_absent", 1, lambda y: torch.where(y == 3, 0, y)),
        ("dicece_B1_target_plus1mod4", 1, lambda y: (y + 1) % 4),
    ],
)
def test_equals_the_released_value(golden: Find, key: str, batch: int, relabel) -> None:  # type: ignore[no-untyped-def]
    inputs = np.load(golden("inputs"))
    images = torch.from_numpy(inputs["images"][:batch])
    labels = relabel(torch.from_numpy(inputs["labels"][:batch].astype(np.int64)))
    expected = float(np.load(golden("oracles"))[key])
    with torch.no_grad():
        assert float(dice_ce(reference_network(golden)(images), labels).mean()) == pytest.approx(expected, rel=2e-6)
