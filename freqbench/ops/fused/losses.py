"""Computes the losses of exclusive classes on a GPU from what one kernel takes of the logits each way.

In PyTorch's operations a loss reads or writes its logits some thirty times a step, and a GPU's memory is what they wait
for. But of the logits `[B, K, H, W, D]` a loss needs only a few sums by class, or one number a voxel: a kernel reads
them once on the way there, and once on the way back, where it writes their gradient. `freqbench.ops.fused.on_gpu`
takes these forms; names, arguments and formulas are those of `freqbench.ops.losses`. Of several other classes with the
same largest logit, the first alone receives a margin's gradient.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.ops.fused import kernels
from freqbench.ops.losses import EVERYTHING, MARGIN, SMOOTH_DENOMINATOR, Loss, Scope

WIDTH = 512  # voxels of one program of a kernel
ROWS = 6  # sums of each class


def _sum_of(**weights: float) -> Loss:
    """Returns a weighted sum of the terms that a kernel makes of the sums by class."""
    terms = [float(weights.get(term, 0)) for term in ("dice", "ce", "margin", "linear")]

    def loss(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
        values: Tensor = _Loss.apply(logits, _counted(labels, scope), scope.classes, terms)  # type: ignore[no-untyped-call]
        return values

    return loss


dice_ce, dice, ce = _sum_of(dice=1, ce=1), _sum_of(dice=1), _sum_of(ce=1)
margin, dice_linear, _both = _sum_of(margin=1), _sum_of(linear=1), _sum_of(margin=1, linear=1)


def flips(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the margin of each voxel and the two parts of what its flip takes, each `[B, 1, H, W, D]`."""
    y = _counted(labels, scope)
    m, other, counts = _Margins.apply(logits, y, True)  # type: ignore[no-untyped-call]
    grid, sizes = _grid(logits.shape)
    mine, others = torch.empty_like(m), torch.empty_like(m)
    among, is_chosen = _among(counts, scope.classes)
    kernels.costs[grid](counts, y, other, among, mine, others, *sizes, is_chosen)
    return m, mine, others


def margin_and_dice(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> tuple[Tensor, Tensor]:
    """Returns the margin of each voxel, `[B, 1, H, W, D]` without a gradient, and `margin` + `dice_linear`."""
    m, _, _ = _Margins.apply(logits.detach(), _counted(labels, scope), True)  # type: ignore[no-untyped-call]
    return m, _both(logits, labels, scope)


def margin_of(logits: Tensor, labels: Tensor, scope: Scope, m: Tensor) -> Tensor:
    """Returns `margin`, `[B]`: its kernel takes the margins of voxels from the logits again."""
    return margin(logits, labels, scope)


def mean_dice(
    logits: Tensor, labels: Tensor, classes: Sequence[int] | None = None, voxels: Tensor | None = None
) -> Tensor:
    """Returns the mean Dice of the predicted classes, float64 `[B]`."""
    y = _counted(labels, Scope(voxels=voxels))
    _, _, counts = _Margins.apply(logits.detach(), y, False)  # type: ignore[no-untyped-call]
    values = counts.new_empty(len(counts), dtype=torch.double)
    among, is_chosen = _among(counts, classes)
    kernels.score[(len(counts),)](counts, among, values, logits.shape[1], is_chosen)
    return values


def is_as_labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the voxels predicted as labelled, bool `[B, 1, H, W, D]`."""
    m, _, _ = _Margins.apply(logits.detach(), _counted(labels, EVERYTHING), True)  # type: ignore[no-untyped-call]
    return m <= 0


def _counted(labels: Tensor, scope: Scope) -> Tensor:
    """Returns labels as they lie in memory for a kernel, -1 for voxels out of scope."""
    y = labels.long().contiguous()
    return y if scope.voxels is None else y.masked_fill(~scope.voxels, -1)


def _among(by_class: Tensor, classes: Tensor | Sequence[int] | None) -> tuple[Tensor, bool]:
    """Returns what a kernel reads as `among` beside values `[..., K]`, and its CHOSEN."""
    if classes is None:
        return by_class, False  # never read
    flags = by_class.new_zeros(by_class.shape[-1], dtype=torch.int32)
    if isinstance(classes, Tensor):
        return flags.index_fill_(0, classes, 1), True
    for k in classes:
        flags[k] = 1  # one by one: copying a list of them would make the device wait
    return flags, True


def _grid(shape: torch.Size) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Returns a kernel's programs for logits of a shape, tiles and samples, and its sizes: voxels, K, voxels a tile."""
    batch, classes, *sides = shape
    voxels = math.prod(sides)
    return (-(-voxels // WIDTH), batch), (voxels, classes, WIDTH)


class _Loss(torch.autograd.Function):
    """Maps logits to a weighted sum of losses, `[B]`; keeps both inputs and how fast it grows with sums by class."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor, classes: Tensor | None, weights: Sequence[float]) -> Tensor:
        z = logits.contiguous()
        grid, sizes = _grid(z.shape)
        kind = torch.promote_types(z.dtype, torch.float32)
        parts = z.new_empty((len(z), grid[0], ROWS, sizes[1]), dtype=kind)
        kernels.sums[grid](z, y, parts, sizes[0], MARGIN, *sizes[1:])
        sums = parts.sum(dim=1, dtype=torch.double)
        values, slopes = z.new_empty(len(z)), z.new_empty((len(z), ROWS - 1, sizes[1]), dtype=kind)
        among, is_chosen = _among(sums, classes)
        kernels.value[(len(z),)](sums, among, values, slopes, *weights, SMOOTH_DENOMINATOR, sizes[1], is_chosen)
        ctx.save_for_backward(z, y, slopes)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        z, y, slopes = ctx.saved_tensors
        grid, sizes = _grid(z.shape)
        gradient = torch.empty_like(z)
        kernels.sums_back[grid](z, y, upstream.contiguous(), slopes, gradient, sizes[0], MARGIN, *sizes[1:])
        return gradient, None, None, None


class _Margins(torch.autograd.Function):
    """Maps logits to margins and nearest other classes, `[B, 1, ...]`, and voxels by class, integers `[B, 3, K]`.

    Of each class they count the voxels that are predicted so, that are both predicted and labelled so, and the labels.
    A voxel whose label is -1 has a margin of 0 and is not counted. Unless `keeps`, margins and classes are not written.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor, keeps: bool) -> tuple[Tensor, Tensor, Tensor]:
        z = logits.contiguous()
        grid, sizes = _grid(z.shape)
        shape = y.shape if keeps else (0,)
        m, other = z.new_empty(shape), y.new_empty(shape, dtype=torch.int16)  # at most 256 classes
        counts = y.new_empty((len(z), grid[0], 3, sizes[1]), dtype=torch.int32)
        kernels.margins[grid](z, y, m, other, counts, *sizes, keeps)
        ctx.save_for_backward(y, other)
        ctx.shape = z.shape
        ctx.mark_non_differentiable(other)
        return m, other, counts.sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        y, other = ctx.saved_tensors
        grid, sizes = _grid(ctx.shape)
        gradient = upstream.new_empty(ctx.shape)
        kernels.margins_back[grid](upstream.contiguous(), y, other, gradient, *sizes)
        return gradient, None, None
