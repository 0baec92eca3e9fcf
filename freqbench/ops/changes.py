"""Changes of a volume that add up: two of one kind, one after another, are a third (Li et al., arXiv:2002.12398)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.ops.blocks import Block, along_axes
from freqbench.ops.dct import BlockDCT
from freqbench.ops.resampling import CUBIC, cubic_spline_matrix

BLOCK = 8
BANDS = 4

Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Change:
    """A kind of change T with parameters c, without clamps, which lose what they cut. T of c, then of c', is T of c +
    c'; of `gain_offset` T of (k + k', b + b' / exp(k)). Of `voxel_shift` the first c has to be whole.

    Attributes:
        layout: the shape of a volume's parameters, from the volume's, `C, H, W, D`.
        on: makes of volumes `[B, C, H, W, D]` the function from parameters `[B, *layout]` to changed volumes; what
            depends on the volumes alone is computed once.
    """

    layout: Callable[[Sequence[int]], tuple[int, ...]]
    on: Callable[[Tensor], Apply]

    def apply(self, volumes: Tensor, c: Tensor) -> Tensor:
        """Applies T once."""
        return self.on(volumes)(c)


def added(volumes: Tensor) -> Apply:
    """Adds c `[B, C, H, W, D]` to the voxels of `volumes`, `[B, C, H, W, D]` as everywhere here."""
    return lambda c: volumes + c


def biased(volumes: Tensor) -> Apply:
    """Multiplies `volumes` by the field exp(sum of c_n B_n), as the attack `bias_field` does."""
    matrices = [cubic_spline_matrix(CUBIC, side).to(volumes) for side in volumes.shape[2:]]
    return lambda c: volumes * along_axes(c, matrices).exp()


def gain_and_offset(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the layout of `scaled` for a volume of `shape` `C, H, W, D`; raises UserError for several channels, of
    which no bound is derived."""
    if shape[0] > 1:
        raise UserError(
            f"gain_offset: expected volumes of 1 channel, got {shape[0]}: its bound holds for one gain only"
        )
    return 1, 2


def scaled(volumes: Tensor) -> Apply:
    """Adds an offset b to `volumes`, then multiplies by exp(k): c is (k, b) of the channel."""

    def apply(c: Tensor) -> Tensor:
        k, b = c[..., None, None, None].unbind(2)
        return k.exp() * (volumes + b)

    return apply


def reweighted(volumes: Tensor) -> Apply:
    """Multiplies the DCT of every block of `volumes` by exp(c_n) in radial band n; the mean of a block stays."""
    h, w, d = block = dividing_block(volumes.shape[2:])
    *batch, height, width, depth = volumes.shape
    transform = BlockDCT.of(volumes, block)
    bands = radial_bands(block).to(volumes.device).repeat(1, 1, depth // d)  # [h, w, D]
    spectrum = transform.spectrum(volumes).reshape(*batch, height // h, h, width // w, w, depth)

    def apply(c: Tensor) -> Tensor:
        logs = torch.cat([c.new_zeros(*c.shape[:2], 1), c], dim=2)
        factors = logs.exp()[:, :, bands][:, :, None, :, None]
        return transform.volume((spectrum * factors).reshape(-1, *volumes.shape[1:]))

    return apply


def shifted(volumes: Tensor) -> Apply:
    r"""Moves all channels of `volumes` by c voxels, circularly: the DFT is multiplied by exp(-2 pi i k.c / N), one axis
    at a time.

    On an axis of N voxels it is the circulant matrix of the Dirichlet kernel, which is faster than a DFT for N up to
    some hundreds:

    .. math:: y_i = \sum_j \frac{1}{N} \Bigl(1 + 2 \sum_{0 < f < N/2} \cos \frac{2 \pi f (i - j - c)}{N}\Bigr) x_j

    The Nyquist frequency of an even side is dropped, by 0 voxels too: it has no sign, so that a real volume could only
    take cos(pi c) of it, and cosines of two shifts do not multiply to that of their sum.
    """
    axes = [torch.arange(side, device=volumes.device) for side in volumes.shape[2:]]
    lags = [(axis[:, None] - axis) % len(axis) for axis in axes]

    def circulant(axis: Tensor, lag: Tensor, c: Tensor) -> Tensor:
        """Returns the matrices `[B, 1, N, N]` of shifts c `[B]`."""
        waves = 2 * math.pi / len(axis) * axis[1 : (len(axis) + 1) // 2].double()
        kernel = (1 + 2 * ((axis - c.double()[:, None])[..., None] * waves).cos().sum(-1)) / len(axis)
        return kernel.to(volumes)[:, None, lag]

    def apply(c: Tensor) -> Tensor:
        h, w, d = map(circulant, axes, lags, c.unbind(1))
        moved = (h @ volumes.flatten(3)).reshape(-1, *volumes.shape[1:])
        return w[:, :, None] @ moved @ d[:, :, None].mT

    return apply


def rolled(volumes: Tensor) -> Apply:
    """Moves all channels of `volumes` by c voxels, each rounded to the nearest, circularly; without a gradient."""

    def apply(c: Tensor) -> Tensor:
        # Halves are rounded upwards, so that a whole number added before or after is one.
        whole = (c.expand(len(volumes), -1) + 0.5).floor().int().tolist()
        return torch.stack([volume.roll(by, dims=(1, 2, 3)) for volume, by in zip(volumes, whole, strict=True)])

    return apply


def dividing_block(shape: Sequence[int]) -> Block:
    """Returns the longest sides up to BLOCK that divide those of a volume of `shape`: padding would not be the same
    twice."""
    h, w, d = map(_dividing_side, shape)
    return h, w, d


def _dividing_side(size: int) -> int:
    return next(side for side in range(BLOCK, 0, -1) if size % side == 0)


def radial_bands(block: Block) -> Tensor:
    """Returns the band of each coefficient of a block, int64 `[h, w, d]`: 0 for its mean, else 1 to BANDS. Bands have
    equal widths of the distance from the mean, with each axis scaled to [0, 1]."""
    axes = [torch.arange(side) / max(1, side - 1) for side in block]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    return (BANDS * distance / distance.max().clamp(min=1)).ceil().clamp(max=BANDS).long()


def draws_of(volumes: Tensor, kind: str, sigma: float) -> Callable[[int], Tensor]:
    """Returns `volumes` `[B, C, H, W, D]` after one change of a `kind` in CHANGES with parameters from N(0, sigma^2),
    clamped, for any seed."""
    layout = CHANGES[kind].layout(volumes.shape[1:])
    apply = CHANGES[kind].on(volumes)

    def drawn(seed: int) -> Tensor:
        noise = torch.randn(layout, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        return apply(sigma * noise[None].to(volumes)).clamp_(0, 1)

    return drawn


def _of_spline(shape: Sequence[int]) -> tuple[int, ...]:
    return shape[0], CUBIC, CUBIC, CUBIC


def _of_bands(shape: Sequence[int]) -> tuple[int, ...]:
    return shape[0], BANDS


def _of_axes(shape: Sequence[int]) -> tuple[int, ...]:
    return (len(shape) - 1,)


CHANGES: Mapping[str, Change] = {
    "voxels": Change(tuple, added),
    "bias_field": Change(_of_spline, biased),
    "gain_offset": Change(gain_and_offset, scaled),
    "dct_bands": Change(_of_bands, reweighted),
    "fourier_shift": Change(_of_axes, shifted),
    "voxel_shift": Change(_of_axes, rolled),
}
