"""Smoothing against scipy, resizing against torch's interpolation, and what a window shows by hand."""

import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.ops.blocks import along_axes
from freqbench.ops.resampling import Zoom, area_matrix, gaussian_matrix, linear_matrix

SHAPE = (9, 6, 4)


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def zoom(ratio: float, *place: float) -> Zoom:
    made = Zoom.of(random(1, 1, *SHAPE), ratio, place)
    return made


@pytest.mark.parametrize(("taps", "sigma"), [(15, 7 / 3), (5, 1.0), (3, 4.0), (1, 2.0)])
@pytest.mark.parametrize("at", [(4, 3, 2), (0, 0, 0)], ids=["inside", "corner"])
def test_an_impulse_is_smoothed_as_by_scipy(taps: int, sigma: float, at: tuple[int, int, int]) -> None:
    impulse = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
    impulse[0, 0][at] = 1
    ours = along_axes(impulse, [gaussian_matrix(size, taps, sigma) for size in SHAPE])
    theirs = scipy.ndimage.gaussian_filter(impulse[0, 0].numpy(), sigma, mode="constant", radius=taps // 2)
    assert torch.allclose(ours[0, 0], torch.from_numpy(theirs), rtol=0, atol=1e-15)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 7, 9])
def test_means_over_parts_are_those_of_finer_points(rows: int) -> None:
    """Of every point `rows` copies, so that no part cuts one."""
    x = random(9)
    assert torch.allclose(area_matrix(9, rows) @ x, x.repeat_interleave(rows).reshape(rows, 9).mean(1))


@pytest.mark.parametrize("rows", [1, 5, 8, 9, 10, 14, 18])
def test_a_line_is_interpolated_as_by_torch(rows: int) -> None:
    x = random(1, 1, 9)
    theirs = F.interpolate(x, size=rows, mode="linear", align_corners=False)
    assert torch.allclose(linear_matrix(9, rows) @ x[0, 0], theirs[0, 0], rtol=0, atol=1e-14)


def test_in_sight_are_voxels_whose_middles_lie_between_middles_that_are_shown() -> None:
    """Four voxels enlarged to six have their middles at 0.25, 1.75, 3.25 and 4.75; six to nine, at 0.25 + 1.5 i."""
    made = zoom(1.5, 0.99, 0.5, 0.0)
    h, w, d = (made.in_sight[0, 0].amax(dim=axes).tolist() for axes in ((1, 2), (0, 2), (0, 1)))
    assert d == [True, True, False, False]  # 0 to 3 are shown
    assert w == [False, False, True, True, True, False]  # 2 to 7
    assert h == [14 / 9 * (i + 0.5) - 0.5 >= 5 for i in range(9)]  # 5 to 13
    assert int(made.in_sight.sum()) == sum(h) * sum(w) * sum(d)


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("ratio", [1.2, 1.5, 2.0])
def test_a_ramp_comes_back_where_it_is_in_sight_and_zeros_elsewhere(ratio: float, place: float) -> None:
    """Linear interpolation keeps what is linear; only the outermost half voxels are held."""
    i, j, k = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in SHAPE), indexing="ij")
    ramp = (1 + i + 10 * j + 100 * k)[None, None]
    made = zoom(ratio, place, place, place)
    inner = torch.zeros_like(ramp, dtype=torch.bool)
    inner[:, :, 1:-1, 1:-1, 1:-1] = True
    back = made.undo(made.zoom(ramp))
    seen = made.in_sight & inner
    assert bool(seen.any())
    assert torch.allclose(back[seen], ramp[seen], rtol=0, atol=1e-12)
    assert bool((back[~made.in_sight] == 0).all())


def test_no_zoom_where_no_side_changes() -> None:
    assert Zoom.of(random(1, 1, *SHAPE), 1.0, (0, 0, 0)) is None
    assert Zoom.of(random(1, 1, *SHAPE), 1.05, (0, 0, 0)) is None, "less than half a voxel on every axis"


def test_a_side_is_at_least_one_voxel() -> None:
    assert torch.count_nonzero(zoom(0.01, 0.5, 0.5, 0.5).zoom(random(1, 1, *SHAPE) + 1)) == 1
