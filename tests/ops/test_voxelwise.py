"""Voxelwise terms against torch's own and sums by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.ops.voxelwise import cosine_to_label, dice_of_set, is_as_labelled


@pytest.fixture
def prediction() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(2, 4, 3, 4, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 4, (2, 1, 3, 4, 5), generator=generator)


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels[:, 0], 4).movedim(-1, 1).double()


def test_right_is_where_the_argmax_is_the_label(prediction: tuple[Tensor, Tensor]) -> None:
    logits, labels = prediction
    assert torch.equal(is_as_labelled(logits, labels), logits.argmax(dim=1, keepdim=True) == labels)


def test_cosine_is_torch_s(prediction: tuple[Tensor, Tensor]) -> None:
    logits, labels = prediction
    expected = F.cosine_similarity(logits.softmax(dim=1), one_hot(labels), dim=1)
    assert torch.allclose(cosine_to_label(logits.softmax(dim=1), labels)[:, 0], expected, rtol=1e-12)


def test_dice_of_a_set_pools_voxels_classes_and_samples(prediction: tuple[Tensor, Tensor]) -> None:
    logits, labels = prediction
    p, o = logits.softmax(dim=1), one_hot(labels)
    members = torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    chosen = members.expand_as(p)
    overlap, sizes = (p * o)[chosen].sum(), (p.square() + o.square())[chosen].sum()
    expected = 1 - (2 * overlap + 1e-5) / (sizes + 1e-5)
    assert float(dice_of_set(p, labels, members)) == pytest.approx(float(expected), rel=1e-12)


def test_an_empty_set_gives_nothing_and_no_gradient(prediction: tuple[Tensor, Tensor]) -> None:
    logits, labels = prediction
    logits.requires_grad_()
    loss = dice_of_set(logits.softmax(dim=1), labels, torch.zeros_like(labels, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()  # type: ignore[union-attr]
