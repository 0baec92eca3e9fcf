"""Stretches depth slices to the full range of intensities, with a hand-written backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.ops.compiled import compiled

CONSTANT = 1e-6


def stretch_slices(x: Tensor, scale: float) -> Tensor:
    """Stretches every depth slice of `[B, C, H, W, D]` by its extremes, (x - min) / (max - min), ties sharing their
    gradient. A slice that is constant, to 1e-6 of the scale (the intensity of white), becomes x / scale."""
    return _Stretch.apply(x, scale, 0.0)  # type: ignore[no-untyped-call]


def stretch_slices_offset(x: Tensor, offset: float) -> Tensor:
    """Returns (x - min + offset) / (max - min + offset) per depth slice, offset above 0; constant slices become 1."""
    return _Stretch.apply(x, None, offset)  # type: ignore[no-untyped-call]


class _Stretch(torch.autograd.Function):
    """Keeps its input and the extremes of its slices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float | None, offset: float) -> Tensor:
        low = x.amin(dim=(2, 3), keepdim=True)
        high = x.amax(dim=(2, 3), keepdim=True)
        ctx.save_for_backward(x, low, high)
        ctx.line = scale, offset
        return stretched(x, low, high, scale, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return stretched_back(upstream, *ctx.saved_tensors, *ctx.line), None, None


@compiled
def stretched(x: Tensor, low: Tensor, high: Tensor, scale: float | None, offset: float) -> Tensor:
    """Returns slices x `[B, C, H, W, D]` stretched by their extremes `low` and `high`, `[B, C, 1, 1, D]`: as
    `stretch_slices` by `scale`, or where that is None as `stretch_slices_offset` by `offset`."""
    base, width, _ = _line(low, high, scale, offset)
    return (x - base).add_(offset).div_(width)


@compiled
def stretched_back(
    upstream: Tensor, x: Tensor, low: Tensor, high: Tensor, scale: float | None, offset: float
) -> Tensor:
    """Returns the gradient by x. With s = (x - min + offset) / r: ds/dx = 1/r, ds/dmin = (s - 1)/r, ds/dmax = -s/r."""
    base, width, movable = _line(low, high, scale, offset)
    gradient = upstream / width
    at_high = -(gradient * x).sum(dim=(2, 3), keepdim=True)
    total = gradient.sum(dim=(2, 3), keepdim=True)
    at_high = (at_high + (base - offset) * total) / width  # sum of -gradient * s
    at_low = -total - at_high
    for bound, value in ((low, at_low), (high, at_high)):
        ties = x == bound
        share = movable * value / ties.sum(dim=(2, 3), keepdim=True)
        gradient.addcmul_(ties.to(share), share)
    return gradient


def _line(low: Tensor, high: Tensor, scale: float | None, offset: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what is taken from a slice, what divides it, and 1 where its extremes move it, else 0."""
    width = high - low + offset
    movable = torch.ones_like(low)
    if scale is None:
        return low, width, movable
    constant = high - low <= CONSTANT * scale
    return low.masked_fill(constant, 0.0), width.masked_fill(constant, scale), movable.masked_fill_(constant, 0.0)
