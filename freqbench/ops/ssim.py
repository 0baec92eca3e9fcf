"""Computes structural similarity in 3D, three taps, as a loss with its own backward pass, and as a bound."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.core.errors import UserError
from freqbench.ops.blocks import along_axes, along_axis
from freqbench.ops.compiled import compiled
from freqbench.ops.voxels import body_of

TAPS = 3
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2
WIDEST_MATRIX = 32
HALVINGS = 8  # of the line to the origin
FLAT = -1e-12  # the slope of the SSIM nearest to 0 that may be a divisor


def ssim_loss(clean: Tensor, block: Sequence[int] | None = None) -> Callable[[Tensor], Tensor]:
    r"""Returns the distance 1 - SSIM of each sample from a clean volume, whose own statistics are computed once.

    .. math:: S = \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
                       {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    under a separable Gaussian window of 3 taps and sigma 1.5 without padding; range 1, C1 = 0.01^2, C2 = 0.03^2;
    variances as E[xy] - E[x]E[y]. S is averaged over the window's positions inside a block, negative averages count 0
    (and give no gradient), then over blocks and channels. This is pytorch-msssim's `ssim(win_size=3,
    nonnegative_ssim=True)` in three dimensions (Wang et al., IEEE TIP 2004), as the code released with VAFA (block by
    block) and SA2 (whole) calls it. An axis shorter than three voxels is not smoothed, as there; at the high side of a
    volume that blocks do not tile, the remainder is a block of its own.

    Args:
        clean: x, `[B, C, H, W, D]` in [0, 1].
        block: sides in voxels of the blocks that no window crosses; None: the whole volume is one.

    Returns:
        A function from a volume y of the same shape to `[B]` in [0, 1]; it can be differentiated once.
    """
    shape = clean.shape[2:]
    axes = [_Axis.of(clean, size, side) for size, side in zip(shape, block or shape, strict=True)]
    mean = _smooth(clean, axes)
    variance = _smooth(clean.square(), axes) - mean.square()

    def loss(volume: Tensor) -> Tensor:
        values: Tensor = _Ssim.apply(volume, clean, mean, variance, axes)  # type: ignore[no-untyped-call]
        return 1 - values

    return loss


def body_ssim(clean: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns a function from volumes to their SSIM with the clean ones in the body: float64 `[B]` in [-1, 1].

    It is the mean of the map S of `ssim_loss`, for the whole volume as one block, at the window's positions centred in
    the body: `freqbench.ops.voxels.body_of` the voxels above 0 in any channel. Voxels on the volume's border have no
    position. Negative values count as they are, channels equally. A volume without a body is averaged over all
    positions. Differentiable.
    """
    x = clean.double()
    axes = [_Axis.of(x, size, size) for size in x.shape[2:]]
    inside = [torch.from_numpy(body_of((sample > 0).any(dim=0).cpu().numpy())) for sample in clean]
    weights = torch.stack(inside)[:, None].to(clean.device)
    # Without padding, the outermost voxels are the middle of no window.
    for dim, size in enumerate(clean.shape[2:], start=2):
        weights = weights.narrow(dim, 1, size - 2) if size >= TAPS else weights
    weights = weights | ~weights.flatten(1).any(dim=1).reshape(-1, 1, 1, 1, 1)
    counts = weights.flatten(1).sum(dim=1)
    mean_x = _smooth(x, axes)
    variance_x = _smooth(x.square(), axes) - mean_x.square()

    def similarity(volume: Tensor) -> Tensor:
        y = volume.double()
        mean_y, square_y, product = _smooth(torch.cat([y, y.square(), x * y], dim=1), axes).chunk(3, dim=1)
        luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
        structure = (2 * (product - mean_x * mean_y) + C2) / (variance_x + square_y - mean_y.square() + C2)
        return ((luminance * structure).mean(dim=1, keepdim=True) * weights).flatten(1).sum(dim=1) / counts

    return similarity


def within_ssim(
    name: str,
    clean: Tensor,
    ssim_min: float,
    origin: Tensor,
    project: Callable[[Tensor], Tensor],
    render: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    r"""Returns a function that moves points `[B, ...]` to the origin until their volumes' SSIM is at least `ssim_min`.

    With o the origin, P the projection and S the SSIM of a point's volume with the clean one, x becomes P(o + t (x -
    o)). t is the largest number in [0, 1] at which S is still at least `ssim_min`, found to 1/256 by bisection. As t
    depends on x, the gradient has a term for it: with g the gradient at the new point, s that of S, P as if it were the
    identity, and t below 1,

    .. math:: \frac{dL}{dx} = t \Bigl(g - \frac{g \cdot (x - o)}{s \cdot (x - o)} \, s\Bigr),

    the gradient of the Lagrangian L + lambda S with the lambda that leaves nothing to gain along the line. Without the
    second term an attack spends its SSIM budget where it gains little: SA2's multipliers on the phantom's UNet, 20
    steps at 0.95, leave 59 % Dice instead of 38 %. P(o) is the mildest point; if even its SSIM is too low, a UserError
    is raised in the attack's name.
    """
    similarity = body_ssim(clean)

    def inside(x: Tensor, share: Tensor) -> Tensor:
        across = -1, *[1] * (x.ndim - 1)
        return project(origin + share.reshape(across) * (x - origin))

    def bounded(x: Tensor) -> Tensor:
        with torch.no_grad():
            low = x.new_zeros(len(x))
            share = high = x.new_ones(len(x))
            for _ in range(HALVINGS + 1):
                holds = similarity(render(inside(x, share))) >= ssim_min
                low = torch.where(holds, share, low)
                high = torch.where(holds, high, share)
                share = (low + high) / 2
            point = inside(x, low)
        if not x.requires_grad:
            return point
        at = point.requires_grad_()
        (s,) = torch.autograd.grad(similarity(render(at)).sum(), at)
        across = -1, *[1] * (x.ndim - 1)
        # moved is 0 and brings the derivative
        away = (x - origin).detach()
        moved = x - x.detach()
        slope = (s * away).flatten(1).sum(dim=1).clamp(max=FLAT)
        change = -low * (s * moved).flatten(1).sum(dim=1) / slope
        shorter = torch.where((low < 1) & (slope < FLAT), change, 0.0)
        return point.detach() + low.reshape(across) * moved + shorter.reshape(across) * away

    with torch.no_grad():
        mildest = float(similarity(render(project(origin))).min())
    _require_mild(name, ssim_min, mildest)
    return bounded


def _require_mild(name: str, ssim_min: float, mildest: float) -> None:
    """Raises UserError in an attack's name unless the mildest point has the SSIM that is asked for."""
    if mildest < ssim_min - 1e-6:
        most = math.floor(1e4 * mildest) / 1e4
        raise UserError(
            f"{name}: ssim_min: expected at most {most:.4f}, which the mildest volume of the threat model has in this "
            f"window, got {ssim_min:g}: lower it"
        )


@cache
def gaussian_window() -> Tensor:
    """Returns the three weights, float64, but rounded to float32 as in pytorch-msssim. The rounding matters, as
    variances are small differences: 6e-5 of the largest gradient on the reference volumes."""
    offsets = torch.arange(TAPS, dtype=torch.float32) - TAPS // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    return (weights / weights.sum()).double()


@dataclass(frozen=True)
class _Axis:
    """Smoothing along one axis, and the mean over the positions that it leaves in each block."""

    smoothing: Tensor | None  # [m, b] of each block; None for one wide block: three shifted sums are cheaper there
    averaging: Tensor  # [1, m] of each block, or [n, m] if the blocks differ

    @classmethod
    def of(cls, like: Tensor, size: int, side: int) -> "_Axis":
        if size == side > WIDEST_MATRIX:
            return cls(None, like.new_full((1, size - TAPS + 1), 1 / (size - TAPS + 1)))
        sides = [side] if size % side == 0 else [side] * (size // side) + [size % side]
        parts = [_band(length) for length in sides]
        means = [torch.full((1, len(part)), 1 / len(part), dtype=torch.float64) for part in parts]
        return cls(*(torch.block_diag(*rows).to(like) for rows in (parts, means)))  # type: ignore[no-untyped-call]


def _band(length: int) -> Tensor:
    """Returns the window at each position in a block, `[length - 2, length]`; the identity if it does not fit."""
    if length < TAPS:
        return torch.eye(length, dtype=torch.float64)
    rows = length - TAPS + 1
    points = torch.eye(length, dtype=torch.float64)
    shifted = (weight * points[tap : tap + rows] for tap, weight in enumerate(gaussian_window()))
    return sum(shifted, start=torch.zeros(rows, length, dtype=torch.float64))


def _smooth(x: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """Returns the Gaussian mean of `[B, C, H, W, D]` at the window's positions."""
    outer, centre = gaussian_window().tolist()[:2]
    for dim, axis in enumerate(axes, start=2):
        if axis.smoothing is not None:
            x = along_axis(x, axis.smoothing, dim)
        else:
            rows = x.shape[dim] - TAPS + 1
            first, middle, last = (x.narrow(dim, tap, rows) for tap in range(TAPS))
            x = (first + last).mul_(outer).add_(middle, alpha=centre)
    return x


def _spread(x: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """Applies the adjoint of `_smooth`: returns every position's value to the voxels of its window."""
    outer, centre = gaussian_window().tolist()[:2]
    for dim, axis in reversed(list(enumerate(axes, start=2))):
        if axis.smoothing is not None:
            x = along_axis(x, axis.smoothing.T, dim)
        else:
            rows = x.shape[dim]
            shape = list(x.shape)
            shape[dim] = rows + TAPS - 1
            wide = x.new_zeros(shape)
            for tap, weight in enumerate((outer, centre, outer)):
                wide.narrow(dim, tap, rows).add_(x, alpha=weight)
            x = wide
    return x


class _Ssim(torch.autograd.Function):
    """Computes the value and its derivatives by the three smoothed maps at once, and keeps the derivatives."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, mean_x: Tensor, variance_x: Tensor, axes: Sequence[_Axis]) -> Tensor:
        similarity, to_maps = ssim_maps(_smooth(torch.cat([y, y.square(), x * y], dim=1), axes), mean_x, variance_x)
        blocks = along_axes(similarity, [axis.averaging for axis in axes])  # [B, C, n, n, n]
        ctx.save_for_backward(x, y, to_maps, blocks > 0)
        ctx.axes = axes
        return blocks.clamp(min=0).flatten(1).mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, to_maps, positive = ctx.saved_tensors
        share = positive.to(y) * (upstream / positive[0].numel()).reshape(-1, 1, 1, 1, 1)
        weights = along_axes(share, [axis.averaging.T for axis in ctx.axes])
        weighted = (to_maps.unflatten(1, (3, -1)) * weights[:, None]).flatten(1, 2)
        to_mean, to_square, to_product = _spread(weighted, ctx.axes).chunk(3, dim=1)
        return to_mean.addcmul(y, to_square, value=2).addcmul_(x, to_product), None, None, None, None


@compiled
def ssim_maps(moments: Tensor, mean_x: Tensor, variance_x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the map S of the SSIM and its derivatives by the smoothed moments E[y], E[yy] and E[xy], given the
    smoothed mean_x and variance_x of the clean volume."""
    mean_y, square_y, product = moments.chunk(3, dim=1)
    covariance = torch.addcmul(product, mean_x, mean_y, value=-1)
    variance_y = torch.addcmul(square_y, mean_y, mean_y, value=-1)
    brightness = (mean_x.square() + C1).addcmul_(mean_y, mean_y).reciprocal_()  # 1 / (mx^2 + my^2 + C1)
    contrast = (variance_x + C2).add_(variance_y).reciprocal_()  # 1 / (vx + vy + C2)
    luminance = (mean_x * mean_y).mul_(2).add_(C1).mul_(brightness)
    structure = covariance.mul_(2).add_(C2).mul_(contrast)
    similarity = luminance * structure

    # S = L(my) T(cov, vy): E[y] has a part in cov and vy too.
    to_product = contrast.mul(luminance).mul_(2)
    to_square = contrast.mul_(similarity).neg_()
    to_mean = torch.addcmul(mean_x, luminance, mean_y, value=-1).mul_(brightness).mul_(structure).mul_(2)
    to_mean.addcmul_(mean_x, to_product, value=-1).addcmul_(mean_y, to_square, value=-2)
    return similarity, torch.cat([to_mean, to_square, to_product], dim=1)
