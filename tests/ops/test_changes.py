"""Changes that add up: two of a kind, one after another, are a third, and the steps that would break it do."""

import pytest
import torch
from torch import Tensor

from freqbench.ops.changes import CHANGES, dividing_block, radial_bands

SHAPES = {"whole blocks": (2, 16, 8, 8), "odd sides": (1, 15, 7, 11)}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(kind: str, shape: tuple[int, ...], size: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two sets of parameters, and those of both changes, one after the other."""
    a, b = (size * drawn(2, *CHANGES[kind].layout(shape), seed=seed) for seed in (1, 2))
    both = a + b
    if kind == "gain_offset":
        both = torch.stack([a[:, :, 0] + b[:, :, 0], a[:, :, 1] + b[:, :, 1] * (-a[:, :, 0]).exp()], dim=2)
    return a, b, both


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", CHANGES)
def test_two_changes_are_a_third(kind: str, shape: tuple[int, ...]) -> None:
    shape = (1, *shape[1:]) if kind == "gain_offset" else shape
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    apply = CHANGES[kind].apply
    a, b, both = pair(kind, shape, 0.3)
    assert torch.allclose(apply(apply(x, a), b), apply(x, both), atol=1e-5)
    assert torch.allclose(apply(x, torch.zeros_like(a)), x, atol=1e-6)
    assert not torch.allclose(apply(x, a), x, atol=1e-2)


@pytest.mark.parametrize("kind", CHANGES)
def test_a_clamp_between_two_changes_breaks_the_sum(kind: str) -> None:
    """So volumes of `ball` stay unclamped until the network's own draw."""
    x, apply = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)), CHANGES[kind].apply
    a, b, both = pair(kind, (1, 8, 8, 8), 1.0)
    cut = apply(apply(x, a).clamp(0, 1), b).clamp(0, 1)
    assert float((cut - apply(x, both).clamp(0, 1)).abs().max()) > 0.01


@pytest.mark.parametrize("kind", ["voxels", "bias_field", "dct_bands"])
def test_rounding_between_two_changes_moves_no_voxel_farther_than_it_rounds(kind: str) -> None:
    """A scan stored as 16 bits is in the ball of radius R plus the rounding's, not of R: as for any quantised file."""
    x, apply = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)), CHANGES[kind].apply
    a, b, both = pair(kind, (1, 8, 8, 8), 0.1)
    levels = 2**16 - 1
    rounded = apply((apply(x, a) * levels).round() / levels, b)
    assert float((rounded - apply(x, both)).abs().max()) < 8 / levels


def test_blocks_divide_the_volume_so_that_nothing_is_padded() -> None:
    assert dividing_block((80, 64, 32)) == (8, 8, 8)
    assert dividing_block((35, 11, 6)) == (7, 1, 6)


def test_the_mean_of_a_block_is_in_no_band() -> None:
    bands = radial_bands((8, 8, 8))
    assert bands[0, 0, 0] == 0
    assert bands.flatten()[1:].unique().tolist() == [1, 2, 3, 4]
    x = torch.rand(1, 1, 8, 8, 8)
    assert float(CHANGES["dct_bands"].apply(x, torch.ones(1, 1, 4)).mean()) == pytest.approx(float(x.mean()), abs=1e-5)
