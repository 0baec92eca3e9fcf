"""Blur, bias field and coarser voxels against scipy, MONAI and means of blocks."""

import numpy as np
import pytest
import torch
from monai.transforms import RandBiasField
from scipy import ndimage
from torch import Tensor

from freqbench.ops.degrading import blurred, coarser, unevenly_lit

SHAPE = (12, 10, 8)


def volume(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.4, 0.9, 1.6, 2.4])
def test_blur_is_scipy_s_gaussian_filter(sigma: float) -> None:
    x = volume(2, 2, *SHAPE)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, *[sigma] * 3), mode="nearest", truncate=4)
    assert np.allclose(blurred(x, sigma), expected, atol=1e-6)


def test_a_bias_field_is_the_exponential_of_a_cubic_with_bounded_coefficients() -> None:
    field = unevenly_lit(torch.ones(2, *SHAPE, dtype=torch.float64), 0.3, seed=4)
    assert torch.equal(field[0], field[1])
    axes = [np.linspace(-1, 1, side) for side in SHAPE]
    basis = [np.polynomial.legendre.legvander(axis, 3) for axis in axes]
    grid = np.einsum("hi,wj,dk->hwdijk", *basis).reshape(-1, 64)
    powers = np.add.outer(np.add.outer(np.arange(4), np.arange(4)), np.arange(4)).ravel()
    coefficients, *_ = np.linalg.lstsq(grid, np.log(field[0].numpy()).ravel(), rcond=None)
    assert np.abs(coefficients[powers > 3]).max() < 1e-6
    assert 0.2 < np.abs(coefficients).max() <= 0.3


def test_a_bias_field_is_that_of_monai_and_no_other_state_is_touched() -> None:
    x, before = volume(2, *SHAPE), np.random.get_state()[1].copy()
    transform = RandBiasField(degree=3, coeff_range=(-0.3, 0.3), prob=1.0, dtype=None).set_random_state(4)
    assert np.array_equal(unevenly_lit(x, 0.3, seed=4), transform(x).numpy())
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_field_of_twice_the_size_is_the_same_twice() -> None:
    one, two = (torch.log(unevenly_lit(torch.ones(1, *SHAPE, dtype=torch.float64), size, 7)) for size in (0.1, 0.2))
    assert torch.allclose(two, 2 * one)


@pytest.mark.parametrize("factor", [2, 4])
def test_coarser_voxels_are_means_of_blocks_read_linearly(factor: int) -> None:
    x = volume(8, 16, 4).numpy()
    blocks = x.reshape(8 // factor, factor, 16 // factor, factor, 4 // factor, factor).mean((1, 3, 5))
    for axis, side in enumerate((8, 16, 4)):
        middles = (np.arange(side // factor) + 0.5) * factor - 0.5
        blocks = np.apply_along_axis(lambda row, m=middles, n=side: np.interp(np.arange(n), m, row), axis, blocks)
    assert np.allclose(coarser(torch.from_numpy(x)[None, None], factor)[0, 0], blocks)


def test_parts_that_are_no_whole_voxels_count_by_their_share() -> None:
    """Three voxels in two parts: means of one and a half voxels each."""
    x = torch.tensor([0.0, 0.6, 0.9], dtype=torch.float64).reshape(1, 1, 3, 1, 1)
    found = coarser(x, 1.5).flatten()
    first, second = (0.0 + 0.3) / 1.5, (0.3 + 0.9) / 1.5
    assert np.allclose(found, [first + (second - first) * max(0, (0.5 - 0.75) / 1.5), (first + second) / 2, second])


def test_an_axis_of_one_voxel_stays() -> None:
    x = volume(1, 1, 6, 5, 1)
    assert coarser(x, 3.0).shape == x.shape
    assert torch.isfinite(blurred(x, 1.6)).all()
