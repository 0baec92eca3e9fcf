"""Computes the losses of exclusive classes on a GPU from what one kernel takes of the logits each way.

In PyTorch's operations a loss reads or writes its logits some thirty times a step, and a GPU's memory is what they wait
for. But of the logits `[B, K, H, W, D]` a loss needs only a few sums by class, or one number a voxel: a kernel reads
them once on the way there, and once on the way back, where it writes their gradient. `freqbench.ops.heads.on_gpu`
takes these forms; names, arguments and formulas are those of `freqbench.ops.losses`. Of several other classes with the
same largest logit, the first alone receives a margin's gradient.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.ops import losses
from freqbench.ops.fused import kernels
from freqbench.ops.losses import EVERYTHING, MARGIN, SMOOTH_DENOMINATOR, Scope

WIDTH = 512  # voxels of one program of a kernel


class ClassSums(NamedTuple):
    """Sums over the voxels that count, float64 `[B, K]`: p is the softmax, y a voxel's label, m its margin."""

    overlap: Tensor  # of p_k where y = k
    squares: Tensor  # of p_k^2
    soft: Tensor  # of p_k
    entropy: Tensor  # of -log p_k where y = k
    margin: Tensor  # of min(m, MARGIN) where y = k
    size: Tensor  # of 1 where y = k


def dice_ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns Dice plus cross-entropy, `[B]`."""
    sums = _class_sums(logits, labels, scope)
    return (_dice(sums, scope) + _ce(sums)).to(logits.dtype)


def dice(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns the Dice loss, `[B]`."""
    return _dice(_class_sums(logits, labels, scope), scope).to(logits.dtype)


def ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns the cross-entropy, `[B]`."""
    return _ce(_class_sums(logits, labels, scope)).to(logits.dtype)


def margin(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns the class-balanced margin, `[B]`."""
    return _margin(_class_sums(logits, labels, scope)).to(logits.dtype)


def dice_linear(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns the Dice loss with linear denominators, `[B]`."""
    return _dice_linear(_class_sums(logits, labels, scope), scope).to(logits.dtype)


def margin_and_dice(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns `margin` + `dice_linear`, `[B]`."""
    sums = _class_sums(logits, labels, scope)
    return (_margin(sums) + _dice_linear(sums, scope)).to(logits.dtype)


def flips(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the margin of each voxel and the two parts of what its flip takes, each `[B, 1, H, W, D]`."""
    m, other, counts = _Margins.apply(logits, _counted(labels, scope))  # type: ignore[no-untyped-call]
    return losses.flip_parts(m, other, labels.long(), *_both_hits_labelled(counts), scope)


def mean_dice(
    logits: Tensor, labels: Tensor, classes: Sequence[int] | None = None, voxels: Tensor | None = None
) -> Tensor:
    """Returns the mean Dice of the predicted classes, float64 `[B]`."""
    _, _, counts = _Margins.apply(logits.detach(), _counted(labels, Scope(voxels=voxels)))  # type: ignore[no-untyped-call]
    return losses.mean_of_dice(*_both_hits_labelled(counts), classes)


def is_as_labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the voxels predicted as labelled, bool `[B, 1, H, W, D]`."""
    m, _, _ = _Margins.apply(logits.detach(), labels.long())  # type: ignore[no-untyped-call]
    return m <= 0


def _dice(sums: ClassSums, scope: Scope) -> Tensor:
    terms = 1 - 2 * sums.overlap / (sums.squares + sums.size + SMOOTH_DENOMINATOR)
    return (terms if scope.classes is None else terms[:, scope.classes]).mean(dim=1)


def _ce(sums: ClassSums) -> Tensor:
    return sums.entropy.sum(dim=1) / sums.size.sum(dim=1).clamp(min=1)


def _margin(sums: ClassSums) -> Tensor:
    return (sums.margin / sums.size.clamp(min=1)).sum(dim=1) / (sums.size > 0).sum(dim=1).clamp(min=1)


def _dice_linear(sums: ClassSums, scope: Scope) -> Tensor:
    return losses.loss_of_dice(2 * sums.overlap / (sums.soft + sums.size + SMOOTH_DENOMINATOR), sums.size, scope)


def _both_hits_labelled(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found, hits, labelled = counts.double().unbind(dim=1)
    return labelled + found, hits, labelled


def _counted(labels: Tensor, scope: Scope) -> Tensor:
    """Returns labels, -1 for voxels out of scope."""
    return labels.long() if scope.voxels is None else labels.long().masked_fill(~scope.voxels, -1)


def _class_sums(logits: Tensor, labels: Tensor, scope: Scope) -> ClassSums:
    return ClassSums(*_Sums.apply(logits, _counted(labels, scope)).unbind(dim=1))  # type: ignore[no-untyped-call]


def _grid(shape: torch.Size) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Returns a kernel's programs for logits of a shape, tiles and samples, and its sizes: voxels, K, voxels a tile."""
    batch, classes, *sides = shape
    voxels = math.prod(sides)
    return (-(-voxels // WIDTH), batch), (voxels, classes, WIDTH)


class _Sums(torch.autograd.Function):
    """Maps logits to the rows of `ClassSums`, float64 `[B, 6, K]`; keeps both inputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        z, y = logits.contiguous(), labels.contiguous()
        grid, sizes = _grid(z.shape)
        kind = torch.promote_types(z.dtype, torch.float32)
        parts = z.new_empty((len(z), grid[0], len(ClassSums._fields), sizes[1]), dtype=kind)
        kernels.sums[grid](z, y, parts, sizes[0], MARGIN, *sizes[1:])
        ctx.save_for_backward(z, y)
        return parts.sum(dim=1, dtype=torch.double)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        z, y = ctx.saved_tensors
        grid, sizes = _grid(z.shape)
        by_sums = upstream[:, :5].to(torch.promote_types(z.dtype, torch.float32)).contiguous()  # `size` has none
        gradient = torch.empty_like(z)
        kernels.sums_back[grid](z, y, by_sums, gradient, sizes[0], MARGIN, *sizes[1:])
        return gradient, None


class _Margins(torch.autograd.Function):
    """Maps logits to margins and nearest other classes, `[B, 1, ...]`, and voxels by class, integers `[B, 3, K]`.

    Of each class they count the voxels that are predicted so, that are both predicted and labelled so, and the labels.
    A voxel whose label is -1 has a margin of 0 and is not counted.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, y = logits.contiguous(), labels.contiguous()
        grid, sizes = _grid(z.shape)
        m, other = z.new_empty(y.shape), torch.empty_like(y)
        counts = y.new_empty((len(z), grid[0], 3, sizes[1]), dtype=torch.int32)
        kernels.margins[grid](z, y, m, other, counts, *sizes)
        ctx.save_for_backward(y, other)
        ctx.shape = z.shape
        ctx.mark_non_differentiable(other)
        return m, other, counts.sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        y, other = ctx.saved_tensors
        grid, sizes = _grid(ctx.shape)
        gradient = upstream.new_empty(ctx.shape)
        kernels.margins_back[grid](upstream.contiguous(), y, other, gradient, *sizes)
        return gradient, None
