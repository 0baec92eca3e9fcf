"""Resizes and smooths volumes with one small matrix per axis, and interpolates them between voxels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from freqbench.ops.blocks import along_axes

CUBIC = 4  # control points of one piece of a cubic spline


def gaussian_matrix(size: int, taps: int, sigma: float, *, hold: bool = False) -> Tensor:
    r"""Returns the smoothing of `size` points by a Gaussian of `taps` weights, an odd number, float64 `[size, size]`.

    .. math:: M_{ij} \propto \exp\Bigl(- \frac{(i - j)^2}{2 \sigma^2}\Bigr), \qquad |i - j| \le (taps - 1) / 2

    The weights sum to 1 over all taps. Points beyond the ends count as 0, so that rows near them sum to less; with
    `hold` they have the value of the outermost point.
    """
    offsets = torch.arange(-(taps // 2), taps // 2 + 1)
    sigma = min(max(sigma, 1e-150), 1e150)  # whose squares are numbers; the weights of others are no different
    weights = torch.exp(-offsets.double().square() / (2 * sigma**2))
    places = torch.arange(size)[:, None] + offsets
    inside = (places >= 0) & (places < size) | hold
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, places.clamp(0, size - 1), torch.where(inside, weights / weights.sum(), 0.0))


def linear_matrix(size: int, rows: int) -> Tensor:
    """Returns linear interpolation of `size` points at `rows` points over the same length, float64 `[rows, size]`, as
    `torch.nn.functional.interpolate` with `align_corners=False`: beyond the outermost middles values are held."""
    places = ((torch.arange(rows, dtype=torch.float64) + 0.5) * size / rows - 0.5).clamp(0, size - 1)
    below = places.floor().long()
    weight = (places - below)[:, None]
    points = torch.eye(size, dtype=torch.float64)
    return (1 - weight) * points[below] + weight * points[(below + 1).clamp(max=size - 1)]


def cubic_spline_matrix(points: int, rows: int) -> Tensor:
    """Evaluates a cubic B-spline of `points` control points, at least 4, at the middles of `rows` voxels, which its
    `points` - 3 pieces span evenly: float64 `[rows, points]`, at least 0, with rows that sum to 1."""
    gap = _to_control_points(points, rows).abs()
    near = 2 / 3 - gap.square() + gap**3 / 2
    return torch.where(gap < 1, near, (2 - gap).clamp(min=0) ** 3 / 6)


def cubic_spline_slopes(points: int, rows: int) -> Tensor:
    """Returns the slope of that spline at the same middles, per voxel, float64 `[rows, points]`."""
    signed = _to_control_points(points, rows)
    gap = signed.abs()
    slopes = torch.where(gap < 1, 1.5 * gap.square() - 2 * gap, -(2 - gap).clamp(min=0).square() / 2)
    return slopes * signed.sign() * (points - CUBIC + 1) / rows


def _to_control_points(points: int, rows: int) -> Tensor:
    """Returns the distance of each voxel's middle above each control point, in pieces, float64 `[rows, points]`."""
    places = (torch.arange(rows, dtype=torch.float64) + 0.5) * (points - CUBIC + 1) / rows
    return places[:, None] - torch.arange(-1, points - 1)


def linear_at(x: Tensor, places: Tensor) -> Tensor:
    """Interpolates volumes `x` `[B, C, H, W, D]` linearly at places `[B, 3, h, w, d]` in voxels: `[B, C, h, w, d]`.
    Beyond the outermost voxels their value is held. Whole numbers return voxels to the bit."""
    # A floor has no slope: the gradient of places goes through their shares alone.
    below = places.detach().floor()
    ends = [_flat_indices(x, below), _flat_indices(x, below + 1)]
    values = [_gathered(x, h + w + d) for h, w, d in product(*zip(*ends, strict=True))]
    for share in (places - below).unbind(1):
        near = values[: len(values) // 2]
        far = values[len(values) // 2 :]
        values = [torch.lerp(*pair, share[:, None]) for pair in zip(near, far, strict=True)]
    return values[0]


def nearest_at(x: Tensor, places: Tensor) -> Tensor:
    """Returns the value of the voxel of `x` nearest to places as in `linear_at`, the higher voxel on a tie; for any
    dtype."""
    h, w, d = _flat_indices(x, (places + 0.5).floor())
    return _gathered(x, h + w + d)


def _flat_indices(x: Tensor, voxels: Tensor) -> tuple[Tensor, ...]:
    """Returns each axis's share, `[B, h, w, d]`, of the index into flat volumes, for whole places `[B, 3, h, w, d]`."""
    strides = (x.shape[3] * x.shape[4], x.shape[4], 1)
    axes = zip(voxels.unbind(1), x.shape[2:], strides, strict=True)
    return tuple(axis.clamp(0, size - 1).long() * stride for axis, size, stride in axes)


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    taken = x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    return taken.reshape(*x.shape[:2], *index.shape[1:])


def area_matrix(size: int, rows: int) -> Tensor:
    """Averages `size` points over `rows` equal parts, float64 `[rows, size]`; a point on an edge counts in parts."""
    edges = torch.arange(rows + 1, dtype=torch.float64)[:, None] * size / rows
    points = torch.arange(size, dtype=torch.float64)
    shares = torch.minimum(edges[1:], points + 1) - torch.maximum(edges[:-1], points)
    return shares.clamp(min=0) * rows / size


@dataclass(frozen=True, kw_only=True)
class Zoom:
    """A volume resized inside its window, and the map of the window back to the volume. Resizing is linear, axis by
    axis. The rest of the window is 0; parts that do not fit into it are cut off.

    Attributes:
        there: a matrix `[n, n]` for each axis.
        back: a matrix `[n, n]` for each axis for the way back, to the visible voxels; the others get 0.
        seen: the voxels that the window shows, bool `[n]` for each axis.
    """

    there: tuple[Tensor, ...]
    back: tuple[Tensor, ...]
    seen: tuple[Tensor, ...]

    @classmethod
    def of(cls, like: Tensor, ratio: float, place: Sequence[float]) -> "Zoom | None":
        """Returns the zoom of windows like `[B, C, H, W, D]`, their sides times `ratio` in whole voxels, at least one;
        None if no side changes. `place`, in [0, 1] for each axis, is that of the smaller of the two in the larger."""
        sizes = like.shape[2:]
        sides = [max(1, math.floor(ratio * size + 0.5)) for size in sizes]
        if sides == list(sizes):
            return None
        axes = [_zoom_axis(*axis) for axis in zip(sizes, sides, place, strict=True)]
        there, back, seen = zip(*axes, strict=True)
        there = tuple(matrix.to(like) for matrix in there)
        back = tuple(matrix.to(like) for matrix in back)
        seen = tuple(vector.to(like.device) for vector in seen)
        return cls(there=there, back=back, seen=seen)

    @property
    def in_sight(self) -> Tensor:
        """The voxels that the window shows on every axis, bool `[1, 1, H, W, D]`."""
        h, w, d = self.seen
        return (h[:, None, None] & w[:, None] & d)[None, None]

    def zoom(self, x: Tensor) -> Tensor:
        """Returns the volumes `x` resized in their window, `[B, C, H, W, D]`."""
        return along_axes(x, self.there)

    def undo(self, x: Tensor) -> Tensor:
        """Maps the zoomed window `x` back to the voxels of the volume, `[B, C, H, W, D]`; 0 for voxels out of sight."""
        return along_axes(x, self.back)


def by_sample(change: Callable[[Zoom, Tensor], Tensor], zooms: Sequence[Zoom | None], x: Tensor) -> Tensor:
    """Returns for each sample of the batch `x` its `change` by its own of the `zooms`; None leaves it unchanged."""
    samples = x.chunk(len(x))
    return torch.cat([one if zoom is None else change(zoom, one) for zoom, one in zip(zooms, samples, strict=True)])


def _zoom_axis(size: int, side: int, place: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the matrices there and back `[size, size]`, and the visible voxels, bool `[size]`."""
    there = linear_matrix(size, side)
    back = linear_matrix(side, size)
    gap = abs(size - side)
    corner = min(int(place * (gap + 1)), gap)
    if side <= size:
        inside = slice(corner, corner + side)
        framed, opened = (torch.zeros(size, size, dtype=torch.float64) for _ in range(2))
        framed[inside] = there
        opened[:, inside] = back
        return framed, opened, torch.ones(size, dtype=torch.bool)
    visible = slice(corner, corner + size)
    back = back[:, visible]
    # A voxel at the cut that also depends on a point beyond it is out of sight.
    seen = back.sum(dim=1) > 1 - 1e-9
    return there[visible], back * seen[:, None], seen
