"""Means over parts, zooms there and back; `tests/attacks/test_transfer.py` compares with torch and scipy."""

import numpy as np
import pytest
import torch
from ops.test_dct import random
from scipy.interpolate import BSpline

from freqbench.ops.resampling import Zoom, area_matrix, cubic_spline_matrix, gaussian_matrix

SHAPE = (9, 6, 4)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 7, 9])
def test_means_over_parts_are_those_of_finer_points(rows: int) -> None:
    """Every point has `rows` copies, so that no part cuts one."""
    x = random(9)
    assert torch.allclose(area_matrix(9, rows) @ x, x.repeat_interleave(rows).reshape(rows, 9).mean(1))


@pytest.mark.parametrize("points", [4, 5, 9])
def test_spline_is_scipy_s_and_stays_between_its_control_points(points: int) -> None:
    pieces = points - 3
    matrix = cubic_spline_matrix(points, 11)
    theirs = BSpline.design_matrix((np.arange(11) + 0.5) * pieces / 11, np.arange(-3.0, pieces + 4), 3).toarray()
    assert np.allclose(matrix.numpy(), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("ratio", [1.2, 1.5, 2.0])
def test_ramp_comes_back_where_it_is_in_sight(ratio: float, place: float) -> None:
    """Linear interpolation keeps what is linear; only the outermost half voxels are held."""
    i, j, k = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in SHAPE), indexing="ij")
    ramp = (1 + i + 10 * j + 100 * k)[None, None]
    made = Zoom.of(ramp, ratio, [place] * 3)
    inner = torch.zeros_like(ramp, dtype=torch.bool)
    inner[:, :, 1:-1, 1:-1, 1:-1] = True
    back = made.undo(made.zoom(ramp))
    seen = made.in_sight & inner
    assert seen.any()
    assert torch.allclose(back[seen], ramp[seen], rtol=0, atol=1e-12)
    assert (back[~made.in_sight] == 0).all()


def test_unchanged_side_is_not_zoomed() -> None:
    assert Zoom.of(random(1, 1, *SHAPE), 1.0, (0, 0, 0)) is None
    assert Zoom.of(random(1, 1, *SHAPE), 1.05, (0, 0, 0)) is None, "less than half a voxel on every axis"
    ones = torch.ones(1, 1, *SHAPE)
    assert torch.count_nonzero(Zoom.of(ones, 0.01, [0.5] * 3).zoom(ones)) == 1


@pytest.mark.parametrize(("sigma", "rows"), [(1e308, [[2, 1], [1, 2]]), (1e-320, [[3, 0], [0, 3]])])
def test_a_gaussian_of_any_width_has_weights(sigma: float, rows: list[list[int]]) -> None:
    """Beyond all numbers it is the mean of its taps, or the point itself."""
    torch.testing.assert_close(gaussian_matrix(2, 3, sigma, hold=True), torch.tensor(rows).double() / 3)
