"""Losses of regions: equal to MONAI's and PyTorch's, to those of two exclusive classes, and to the definition."""

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

from freqbench.ops import losses, region_losses
from freqbench.ops.heads import SIGMOID, SOFTMAX, Head
from freqbench.ops.losses import Scope
from freqbench.ops.regions import MOST_REGIONS, alone, code_of, codes_of, inside, members, numbers_of

SHAPE = (5, 6, 7)
ALIKE = [
    name for name in region_losses.LOSSES if name not in ("dice", "dicece", "cosine")
]  # they differ by a definition


def drawn(regions: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(regions)
    logits = 3 * torch.randn(2, regions, *SHAPE, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 1 << regions, (2, 1, *SHAPE), generator=generator)


def gradient(loss: losses.Loss, logits: Tensor, labels: Tensor) -> Tensor:
    point = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(point, labels, losses.EVERYTHING).sum(), point)
    return slope


def test_codes_hold_every_set_of_regions() -> None:
    codes = torch.arange(1 << 3, dtype=torch.uint8).reshape(1, 1, 2, 2, 2)
    assert torch.equal(codes_of(inside(codes, 3)[0]), codes[0, 0])
    assert [numbers_of(code_of(regions)) for regions in ([], [2], [1, 3])] == [[], [2], [1, 3]]
    assert numbers_of((1 << MOST_REGIONS) - 1) == list(range(1, MOST_REGIONS + 1))


def test_voxels_that_do_not_count_lie_in_no_region() -> None:
    codes = torch.tensor([0, 1, 3, 254], dtype=torch.uint8)
    assert [members(codes, k).tolist() for k in (0, 1)] == [[True, False, False, False], [False, True, True, False]]
    assert alone(codes, 2).tolist() == [0, 0, 1, 254]


def test_dice_and_cross_entropy_are_those_of_monai_and_pytorch() -> None:
    logits, labels = drawn()
    truth = inside(labels, 3).to(logits)
    monai = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6, reduction="none")

    def both(z: Tensor, *_: object) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(z, truth, reduction="none")
        return monai(z, truth).mean(dim=(1, 2, 3, 4)) + entropy.mean(dim=(1, 2, 3, 4))

    assert torch.allclose(region_losses.dice_ce(logits, labels), both(logits), rtol=0, atol=1e-12)
    assert torch.allclose(gradient(region_losses.dice_ce, logits, labels), gradient(both, logits, labels), atol=1e-12)


def test_linear_dice_and_cross_entropy_are_nnunets_loss() -> None:
    """Without nnU-Net's smoothing, and up to the one that its negative Dice lacks."""
    compound = pytest.importorskip("nnunetv2.training.loss.compound_losses")
    logits, labels = drawn()
    loss = compound.DC_and_BCE_loss({}, {"batch_dice": False, "do_bg": True, "smooth": 0.0, "ddp": False})
    expected = loss(logits.float(), inside(labels, 3).float())
    ours = region_losses.dice_linear(logits, labels) + region_losses.ce(logits, labels)
    assert ours.mean() - 1 == pytest.approx(float(expected), abs=1e-6)


def test_cosine_is_that_of_a_regions_two_probabilities() -> None:
    logits, labels = drawn()
    p = logits.sigmoid()
    y = inside(labels, 3).double()
    expected = 1 - F.cosine_similarity(torch.stack([p, 1 - p]), torch.stack([y, 1 - y]), dim=0)
    assert torch.allclose(region_losses.cosine(logits, labels), expected.flatten(1).mean(dim=1), atol=1e-12)


@pytest.mark.parametrize("name", ALIKE)
def test_one_region_is_the_second_of_two_exclusive_classes(name: str) -> None:
    logits, labels = drawn(1)

    def of_two(z: Tensor, y: Tensor, scope: Scope) -> Tensor:
        return losses.LOSSES[name](torch.cat([torch.zeros_like(z), z], dim=1), y, scope)

    loss = region_losses.LOSSES[name]
    assert torch.allclose(loss(logits, labels, losses.EVERYTHING), of_two(logits, labels, losses.EVERYTHING), atol=1e-9)
    assert torch.allclose(gradient(loss, logits, labels), gradient(of_two, logits, labels), atol=1e-12)


every_loss = pytest.mark.parametrize("name", region_losses.LOSSES)


@every_loss
def test_regions_do_not_touch_each_other(name: str) -> None:
    """The loss on one output is that of a network with this region alone."""
    logits, labels = drawn()
    scope = Scope(classes=torch.tensor([1]))
    single = region_losses.LOSSES[name](logits[:, 1:2], (labels >> 1) & 1, losses.EVERYTHING)
    assert torch.allclose(region_losses.LOSSES[name](logits, labels, scope), single, atol=1e-12)


@every_loss
def test_voxels_out_of_scope_have_no_gradient(name: str) -> None:
    logits, labels = drawn()
    voxels = torch.zeros(2, 1, *SHAPE, dtype=torch.bool)
    voxels[:, :, :3] = True
    slope = gradient(lambda z, y, _: region_losses.LOSSES[name](z, y, Scope(voxels=voxels)), logits, labels)
    assert slope[:, :, :3].any()
    assert not slope[:, :, 3:].any()


def test_hard_dice_is_the_mean_over_the_regions_of_the_label() -> None:
    logits = torch.tensor([[[[[1.0, 1.0, -1.0, -1.0]]], [[[-1.0, -1.0, -1.0, 1.0]]]]])
    labels = torch.tensor([[[[[1, 0, 1, 0]]]]])  # region 1 in two voxels, of which one is right; region 2 nowhere
    assert SIGMOID.mean_dice(logits, labels, None, None).tolist() == [0.5]
    assert SIGMOID.mean_dice(logits, labels, (2,), None).tolist() == [0.0]
    assert SIGMOID.mean_dice(logits, 0 * labels, None, None).tolist() == [5 / 8]  # right pairs of region and voxel


def test_heads_agree_on_one_region() -> None:
    logits, labels = drawn(1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    p = SIGMOID.probabilities(logits)
    q = SOFTMAX.probabilities(two)
    assert torch.allclose(SIGMOID.cosine_to_label(p, labels)[:, 0], SOFTMAX.cosine_to_label(q, labels), atol=1e-12)
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    assert torch.allclose(SIGMOID.dice_of_set(p, labels, everywhere), SOFTMAX.dice_of_set(q, labels, everywhere))
    assert torch.equal(SIGMOID.mean_dice(logits, labels, None, None), SOFTMAX.mean_dice(two, labels, None, None))


def test_logits_of_the_mean_probability_give_it_back() -> None:
    logits, _ = drawn()
    mean = SIGMOID.mean_of_probabilities([logits, 100 * logits - 1])
    assert torch.allclose(mean.sigmoid(), (logits.sigmoid() + (100 * logits - 1).sigmoid()) / 2, atol=1e-12)
    assert torch.allclose(SIGMOID.logits_of(logits.sigmoid()), logits, atol=1e-9)


every_head = pytest.mark.parametrize("head", [SOFTMAX, SIGMOID])


@every_head
def test_costs_of_flips_are_what_the_hard_dice_loses_by_them(head: Head) -> None:
    """One voxel more or less changes the denominators too, by a share of 1 / (N + P): the costs are of first order."""
    logits, codes = (each[:1] for each in drawn())
    labels = codes.clamp(max=2).long() if head is SOFTMAX else codes
    margins, *parts = head.flips(logits, labels, losses.EVERYTHING)
    costs = sum(parts)
    before = head.mean_dice(logits, labels, None, None)
    classes = logits.shape[1] - head.has_background
    other = logits.scatter(1, labels.long(), -torch.inf).argmax(1) if head is SOFTMAX else None
    assert margins.shape == costs.shape
    for place in (margins < 0).nonzero().tolist()[::29]:
        _, k, *voxel = place
        flipped = logits.clone()
        z = flipped[(0, slice(None), *voxel)]
        if head is SOFTMAX:
            z[other[(0, *voxel)]] = z.max() + 1
        else:
            z[k] *= -1
        lost = classes * (before - head.mean_dice(flipped, labels, None, None))
        torch.testing.assert_close(lost[0], costs[tuple(place)].double(), rtol=0.03, atol=0)


@every_head
def test_flips_out_of_scope_cost_nothing(head: Head) -> None:
    logits, labels = (each[:1] for each in drawn())
    labels = labels.clamp(max=2).long() if head is SOFTMAX else labels
    voxels = torch.rand(labels.shape) < 0.5
    costs = sum(head.flips(logits, labels, Scope(voxels=voxels))[1:])
    assert not costs[~voxels.expand_as(costs)].any()
    empty = sum(head.flips(logits, torch.zeros_like(labels), losses.EVERYTHING)[1:])
    assert torch.allclose(empty, torch.full_like(empty, 1 / labels.numel()))


@every_head
@pytest.mark.parametrize("has_scope", [False, True])
def test_the_margin_is_a_mean_over_classes_or_sides_of_each_mean(head: Head, has_scope: bool) -> None:
    logits, labels = drawn()
    labels = labels.clamp(max=1).long() if head is SOFTMAX else labels  # of three classes one is not there
    voxels = torch.rand(labels.shape) < 0.5
    scope = Scope(voxels=voxels) if has_scope else losses.EVERYTHING
    m = head.flips(logits, labels, losses.EVERYTHING)[0]
    inner = inside(labels, 3)
    of_regions = [*inner.split(1, dim=1), *(~inner).split(1, dim=1)]
    sets = [labels == 0, labels == 1] if head is SOFTMAX else of_regions
    leads = [m] * 2 if head is SOFTMAX else [*m.split(1, dim=1)] * 2
    for b in range(2):
        means = [
            float(lead[b][of[b] & voxels[b] if has_scope else of[b]].clamp(max=2).mean())
            for lead, of in zip(leads, sets, strict=True)
        ]
        assert head.losses["margin"](logits, labels, scope)[b] == pytest.approx(sum(means) / len(means))
    assert torch.equal(head.margin_of(logits, labels, scope, m), head.losses["margin"](logits, labels, scope))
