"""Losses against torch, scipy, MONAI, the authors' values and formulas; the mean Dice against freqbench.metrics."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.metrics import dice
from freqbench.ops import losses
from freqbench.ops.losses import EVERYTHING, LOSSES, Loss, Scope, dice_of_set, flips, margin, mean_dice

every_loss = pytest.mark.parametrize("name", LOSSES)


def random_task(batch: int = 2, num_classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels of which about half are predicted, and other labels."""
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(batch, num_classes, 5, 4, 3, generator=generator, dtype=torch.float64)
    shape = (batch, 1, 5, 4, 3)
    guessed = torch.randint(0, num_classes, shape, generator=generator)
    labels = torch.where(torch.rand(shape, generator=generator) < 0.4, logits.argmax(1, keepdim=True), guessed)
    return logits, labels, torch.randint(0, num_classes, shape, generator=generator)


def scope_of(name: str, truth: Tensor, voxels: Tensor | None = None) -> Scope:
    return Scope(voxels=voxels, truth=truth if name == "dlr-targeted" else None)


def call(name: str, logits: Tensor, labels: Tensor, truth: Tensor, voxels: Tensor | None = None) -> Tensor:
    return LOSSES[name](logits, labels, scope_of(name, truth, voxels))


def by_voxel(logits: Tensor, labels: Tensor) -> list[list[tuple[np.ndarray, int]]]:
    """Yields the logits and the label of each voxel of every sample."""
    flat = logits.flatten(2).movedim(1, 2).numpy(), labels.flatten(1).numpy()
    return [[*zip(z, y.tolist(), strict=True)] for z, y in zip(*flat, strict=True)]


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max())
    return p / p.sum()


def dlr(z: np.ndarray, y: int, _: int) -> float:
    down = np.sort(z)[::-1]
    return -(z[y] - np.delete(z, y).max()) / (down[0] - down[2])


def dlr_targeted(z: np.ndarray, target: int, truth: int) -> float:
    down = np.sort(z)[::-1]
    return (z[truth] - z[target]) / (down[0] - (down[2] + down[3]) / 2)


def cross_entropy(z: np.ndarray, y: int) -> float:
    return -math.log(softmax(z)[y])


def js(z: np.ndarray, y: int, _: int) -> float:
    return float(jensenshannon(softmax(z), np.eye(5)[y]) ** 2)


def cosine(z: np.ndarray, y: int, _: int) -> float:
    return float(1 - z[y] / np.linalg.norm(z))


@pytest.mark.parametrize(
    ("name", "towards", "formula"),
    [
        ("dlr", False, dlr),
        ("dlr-targeted", True, dlr_targeted),
        ("ce", False, lambda z, y, _: cross_entropy(z, y)),
        ("mask-ce", False, lambda z, y, _: cross_entropy(z, y) * (z.argmax() == y)),
        ("mask-ce", True, lambda z, y, _: cross_entropy(z, y) * (z.argmax() != y)),
        ("js", False, js),
        ("cosine", False, cosine),
    ],
)
def test_mean_is_the_paper_s(name: str, towards: bool, formula: Callable[[np.ndarray, int, int], float]) -> None:
    """The formula takes logits, the label, towards a target that is the target, and the truth."""
    logits, labels, truth = random_task()
    expected = [
        np.mean([formula(z, y, t) for (z, y), (_, t) in zip(*sample, strict=True)])
        for sample in zip(by_voxel(logits, labels), by_voxel(logits, truth), strict=True)
    ]
    assert LOSSES[name](logits, labels, Scope(truth=truth if towards else None)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_dlr_has_a_gradient_where_two_classes_tie(label: int) -> None:
    """Between the label and the other of the two, whichever torch sorts first."""
    logits = torch.tensor([2.0, 2.0, 1.0, 0.0]).reshape(1, 4, 1, 1, 1).requires_grad_()
    value = LOSSES["dlr"](logits, torch.full((1, 1, 1, 1, 1), label), EVERYTHING)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.flatten()[[label, 1 - label]].tolist() == [-1.0, 1.0]


def test_balanced_mask_ce_is_mean_over_classes_that_are_there() -> None:
    logits, labels, _ = random_task()
    labels = torch.where(labels == 3, 1, labels)
    expected = []
    for sample in by_voxel(logits, labels):
        terms: dict[int, list[float]] = {}
        for z, y in sample:
            terms.setdefault(y, []).append(cross_entropy(z, y) * (z.argmax() == y))
        expected.append(np.mean([np.mean(term) for term in terms.values()]))
    assert LOSSES["mask-ce-balanced"](logits, labels, EVERYTHING).tolist() == pytest.approx(expected)


def test_js_stays_finite_where_the_softmax_saturates() -> None:
    logits = torch.tensor([200.0, -200.0]).reshape(1, 2, 1, 1, 1).requires_grad_()
    for label, value in ((0, 0.0), (1, math.log(2))):
        loss = LOSSES["js"](logits, torch.full((1, 1, 1, 1, 1), label), EVERYTHING)
        assert loss.detach() == pytest.approx(value, abs=1e-6)
        assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


@every_loss
def test_gradient_equals_finite_differences(name: str) -> None:
    logits, labels, truth = random_task()
    loss: Loss = LOSSES[name]
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, scope_of(name, truth)), (logits.requires_grad_(),))


@every_loss
def test_a_scope_is_the_loss_of_its_voxels_alone(name: str) -> None:
    logits, labels, truth = random_task()
    voxels = truth == 2
    alone = []
    for i in range(len(logits)):
        own = voxels[i, 0]
        alone.append(call(name, *[tensor[i][:, own][None, :, :, None, None] for tensor in (logits, labels, truth)]))
    assert torch.allclose(call(name, logits, labels, truth, voxels), torch.cat(alone))


@every_loss
@pytest.mark.parametrize("share", [None, 0.7])
def test_the_masks_of_a_gpu_add_up_to_the_same(name: str, share: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, of all voxels and of some; a GPU's own arithmetic is under `-m gpu`."""
    logits, labels, truth = random_task()
    voxels = None if share is None else torch.rand(labels.shape) < share
    logits.requires_grad_()

    def both() -> tuple[Tensor, ...]:
        values = call(name, logits, labels, truth, voxels)
        return values.detach(), *torch.autograd.grad(values.sum(), logits)

    by_address = both()
    monkeypatch.setattr(Tensor, "is_cuda", True)
    for one, other in zip(both(), by_address, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_dice_of_a_large_volume_in_float32_keeps_six_digits() -> None:
    """Nearly the same probability everywhere, whose rounding errors all have one sign."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(1, 2, 64, 64, 64)
    logits[:, 0] = 4 + 0.02 * torch.randn(64, 64, 64, generator=generator)
    labels = torch.zeros(1, 1, 64, 64, 64, dtype=torch.long)
    labels[..., :2] = 1
    for name, scope in (("dice", EVERYTHING), ("dicece", EVERYTHING), ("dice", Scope(voxels=labels == 0))):
        ours, expected = (float(LOSSES[name](z, labels, scope)) for z in (logits, logits.double()))
        assert ours == pytest.approx(expected, rel=1e-6)


@every_loss
def test_a_loss_without_voxels_has_no_gradient(name: str) -> None:
    logits, labels, truth = random_task()
    value = call(name, logits.requires_grad_(), labels, truth, torch.zeros_like(truth, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert value.isfinite().all()


@pytest.mark.parametrize("num_classes", [2, 5, 300])
def test_a_slab_at_a_time_gives_what_the_whole_volume_gives(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded logits, of which many are equal; the gradient of a whole volume is that of PyTorch's own operations."""
    logits, labels, _ = random_task(num_classes=num_classes)
    logits = logits.round()

    def results() -> list[Tensor]:
        z = logits.clone().requires_grad_()
        lead, mine, others = flips(z, labels)
        raised = (lead, margin(z, labels), losses.dice(z, labels), losses.dice_ce(z, labels))
        of_lead, *gradients = (torch.autograd.grad(each.sum(), z)[0] for each in raised)
        return [lead.detach(), mine, others, of_lead, *gradients, mean_dice(z, labels)]

    monkeypatch.setattr(losses, "SLAB", 1)
    slabs = results()
    monkeypatch.setattr(losses, "SLAB", 2**30)
    z = logits.clone().requires_grad_()
    ahead, other = z.scatter(1, labels, -torch.inf).max(dim=1, keepdim=True)
    (gradient,) = torch.autograd.grad((ahead - z.gather(1, labels)).sum(), z)
    assert all(map(torch.equal, slabs, results()))
    assert torch.equal(slabs[0], ahead - z.gather(1, labels))
    assert torch.equal(slabs[3], gradient)
    assert torch.equal(slabs[3].argmax(dim=1, keepdim=True), other)


def test_dlr_targeted_asks_for_the_truth() -> None:
    logits, labels, _ = random_task()
    with pytest.raises(UserError, match=r"^dlr-targeted: expected the true labels beside the target"):
        LOSSES["dlr-targeted"](logits, labels, EVERYTHING)


ARGUMENTS = {"softmax": True, "to_onehot_y": True, "squared_pred": True, "smooth_nr": 0, "smooth_dr": 1e-6}
MONAI = {"dicece": DiceCELoss(**ARGUMENTS), "dice": DiceLoss(**ARGUMENTS)}


@pytest.mark.parametrize("name", MONAI)
def test_the_mean_over_samples_and_its_gradient_are_monai_s(name: str) -> None:
    logits, labels, _ = random_task()
    logits.requires_grad_()
    ours = LOSSES[name](logits, labels, EVERYTHING).mean()
    theirs = MONAI[name](logits, labels)
    assert ours.detach() == pytest.approx(float(theirs.detach()), abs=1e-7)
    assert torch.allclose(*[torch.autograd.grad(value, logits)[0] for value in (ours, theirs)], atol=1e-9)


def test_an_empty_set_gives_nothing_and_no_gradient() -> None:
    logits, labels, _ = random_task()
    logits.requires_grad_()
    loss = dice_of_set(logits.softmax(dim=1), labels, torch.zeros_like(labels, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def predicted() -> tuple[Tensor, Tensor]:
    """Five classes, of which the first sample lacks class 3 and the second class 1."""
    logits, labels, _ = random_task(3)
    labels[0][labels[0] == 3] = 0
    labels[1][labels[1] == 1] = 4
    return logits, labels


def by_metrics(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Dice of every sample and class; NaN where the labels lack the class."""
    pairs = zip(logits.argmax(1), labels[:, 0], strict=True)
    return np.stack([dice(pred, label, logits.shape[1]) for pred, label in pairs])


@pytest.mark.parametrize("classes", [None, (3,), (1, 3), (0, 4)], ids=str)
def test_consistency_is_the_mean_over_the_classes_of_the_labels(classes: tuple[int, ...] | None) -> None:
    logits, labels = predicted()
    table = by_metrics(logits, labels)[:, list(classes or (1, 2, 3, 4))]
    expected = [np.nanmean(row) if np.isfinite(row).any() else 0.0 for row in table]
    assert mean_dice(logits, labels, classes).tolist() == pytest.approx(expected, abs=1e-12)


def test_labels_without_foreground_have_share_of_voxels_right() -> None:
    logits, labels = predicted()
    labels[2] = 0
    expected = float((logits[2].argmax(0) == 0).double().mean())
    assert mean_dice(logits, labels)[2].item() == pytest.approx(expected, abs=1e-12)
