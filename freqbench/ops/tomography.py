"""Projects slices with parallel beams, and reconstructs them.  Kak and Slaney, IEEE Press 1988, chapter 3."""

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ParallelBeam:
    r"""Projections of slices `H x W` at angles theta_k = k pi / `angles`, on T detector bins of one voxel's width.

    The ray of bin s at an angle theta is the line h sin(theta) + w cos(theta) = s, from the slice's middle. A voxel
    contributes to the two bins around its middle's s, with linear weights; back projection reads them with the same
    weights, and is the exact transpose. The filter is the band-limited ramp, as in skimage's `iradon`.
    """

    angles: int
    shape: tuple[int, int]
    spread: Tensor  # sparse [angles T, H W]: a slice's contribution to each bin
    gather: Tensor  # its transpose

    @classmethod
    def of(cls, like: Tensor, angles: int) -> "ParallelBeam":
        """Returns the beam of so many `angles` for volumes like `[B, C, H, W, D]`, slice by slice along D."""
        height, width = like.shape[2:4]
        return _beam(height, width, angles, like.dtype, like.device)

    @property
    def bins(self) -> int:
        """T, wide enough for the diagonal."""
        return len(self.spread) // self.angles

    def project(self, volume: Tensor) -> Tensor:
        """Returns line integrals in voxels, `[B, C, angles, T, D]`, of a volume `[B, C, H, W, D]`."""
        return self._times(self.spread, self.gather, volume, (self.angles, self.bins))

    def reconstruct(self, readings: Tensor) -> Tensor:
        """Returns the filtered back projection `[B, C, H, W, D]` of readings `[B, C, angles, T, D]`."""
        size = 2 * self.bins
        distance = torch.fft.fftfreq(size, 1 / size, dtype=readings.dtype, device=readings.device)
        kernel = torch.where(distance % 2 == 1, -1 / (math.pi * distance).square(), (distance == 0) / 4)
        ramp = torch.fft.rfft(kernel).real[:, None]
        spectrum = torch.fft.rfft(readings, n=size, dim=3)
        filtered = torch.fft.irfft(spectrum * ramp, n=size, dim=3)[:, :, :, : self.bins]
        return self._times(self.gather, self.spread, filtered * (math.pi / self.angles), self.shape)

    def _times(self, matrix: Tensor, transposed: Tensor, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """Applies a matrix to the third and fourth axis together, which become `shape`."""
        batch, channels, *_, depth = x.shape
        columns = x.flatten(2, 3).movedim(2, 0).reshape(matrix.shape[1], -1)
        product: Tensor = _Product.apply(matrix, transposed, columns)  # type: ignore[no-untyped-call]
        return product.reshape(-1, batch, channels, depth).movedim(0, 2).reshape(batch, channels, *shape, depth)


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one; torch's own derivative would transpose the sparse one anew at every step."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradient


@lru_cache(maxsize=2)
def _beam(height: int, width: int, angles: int, dtype: torch.dtype, device: torch.device) -> ParallelBeam:
    bins = 2 * math.ceil(math.hypot(height, width) / 2) + 1
    place = _middles(height, width, angles) + bins // 2
    below = place.floor().long()
    part = place - below
    row = below + bins * torch.arange(angles)
    rows = torch.stack([row, row + 1], dim=2).flatten()
    parts = torch.stack([1 - part, part], dim=2).flatten()
    order = rows.argsort(stable=True)
    voxels = torch.arange(height * width).repeat_interleave(2 * angles)
    starts = torch.zeros(angles * bins + 1, dtype=torch.long)
    starts[1:] = rows.bincount(minlength=angles * bins).cumsum(0)
    ends = torch.arange(0, len(rows) + 1, 2 * angles)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        made = partial(torch.sparse_csr_tensor, check_invariants=False)
        spread = made(starts, voxels[order], parts[order], (angles * bins, height * width))
        gather = made(ends, rows, parts, (height * width, angles * bins))
    spread, gather = (matrix.to(device=device, dtype=dtype) for matrix in (spread, gather))
    return ParallelBeam(angles=angles, shape=(height, width), spread=spread, gather=gather)


def _middles(height: int, width: int, angles: int) -> Tensor:
    """Returns the s of each voxel's middle at each angle, in voxels, float64 `[H W, angles]`."""
    theta = torch.arange(angles, dtype=torch.float64) * (math.pi / angles)
    h, w = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in (height, width))
    return (h[:, None, None] * theta.sin() + w[:, None] * theta.cos()).flatten(0, 1)
