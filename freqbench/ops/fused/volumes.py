"""Computes on a GPU, by one kernel each, what frequency attacks do to every voxel or coefficient of a volume.

A volume has one channel where logits have a dozen: not memory, but the number of launches is what these operations
cost. Stretching takes some thirty of them, the SSIM with its derivatives forty. Names, arguments and formulas are those
of `freqbench.ops.stretching`, `ssim` and `quantisation`; so is the order of roundings, but within sums of a slice.
"""

import math
from typing import Any

import torch
from torch import Tensor

from freqbench.ops.fused import volume_kernels as kernels
from freqbench.ops.quantisation import TIE, Interval
from freqbench.ops.ssim import C1, C2
from freqbench.ops.stretching import CONSTANT

WIDTH = 512  # numbers of one program of a kernel
ROWS, DEPTH = 32, 16  # voxels of one program that sums slices: in a slice, and slices

EXACT: dict[str, Any] = {"enable_fp_fusion": False}


def stretched(x: Tensor, low: Tensor, high: Tensor, scale: float | None, offset: float) -> Tensor:
    """Returns slices stretched by their extremes; see `freqbench.ops.stretching.stretched`."""
    x = x.contiguous()
    out, (volumes, voxels) = torch.empty_like(x), _sizes(x)
    kernels.stretch[(-(-voxels // WIDTH), volumes)](
        x, low, high, out, voxels, x.shape[-1], scale or 0.0, offset, CONSTANT, WIDTH, **EXACT
    )
    return out


def stretched_back(
    upstream: Tensor, x: Tensor, low: Tensor, high: Tensor, scale: float | None, offset: float
) -> Tensor:
    """Returns the gradient by `x`; see `freqbench.ops.stretching.stretched_back`."""
    g, x = upstream.contiguous(), x.contiguous()
    volumes, voxels = _sizes(x)
    depth = x.shape[-1]
    area = voxels // depth
    grid = -(-area // ROWS), -(-depth // DEPTH), volumes
    parts = x.new_empty((volumes, grid[0], 4, depth))
    given = low, high, scale or 0.0, offset, CONSTANT
    kernels.slice_sums[grid](g, x, parts, area, depth, *given, ROWS, DEPTH, **EXACT)
    gradient = torch.empty_like(x)
    kernels.stretch_back[(-(-voxels // WIDTH), volumes)](
        g, x, parts.sum(dim=1), gradient, voxels, depth, *given, WIDTH, **EXACT
    )
    return gradient


def nearest_error(error: Tensor, first: Interval, second: Interval) -> Tensor:
    """Returns the nearest number of two intervals, without a gradient; see `freqbench.ops.quantisation`."""
    out = torch.empty_like(error, memory_format=torch.contiguous_format)
    ends = (end.contiguous() for end in (*first, *second))
    kernels.nearest[(-(-out.numel() // WIDTH),)](error.contiguous(), *ends, out, out.numel(), WIDTH)
    return out


def table_of(
    error: Tensor, first: Interval, second: Interval, spectrum: Tensor, few: Tensor, q_min: float, q_max: float
) -> Tensor:
    """Returns the steps of reachable errors; see `freqbench.ops.quantisation.table_of`."""
    table = torch.empty_like(few)
    given = (each.contiguous() for each in (error, *first, *second, spectrum, few))
    steps = table.new_full((), q_min), table.new_full((), q_max)
    kernels.table[(-(-few.numel() // WIDTH),)](*given, *steps, table, few.numel(), WIDTH, **EXACT)
    return table


def reachable(spectrum: Tensor, q_min: float, q_max: float) -> tuple[Tensor, Interval, Interval, Interval]:
    """Returns the fewest steps and intervals of errors; see `freqbench.ops.quantisation.reachable`."""
    c = spectrum.contiguous()
    few, *ends = (torch.empty_like(c) for _ in range(7))
    steps = c.new_full((), q_min), c.new_full((), q_max)
    kernels.reach[(-(-c.numel() // WIDTH),)](c, *steps, few, *ends, c.numel(), TIE, WIDTH, **EXACT)
    return few, (ends[0], ends[1]), (ends[2], ends[3]), (ends[4], ends[5])


def hard_error(spectrum: Tensor, table: Tensor) -> Tensor:
    """Returns the change of a spectrum that a table quantises; see `freqbench.ops.quantisation.hard_error`."""
    kind = torch.promote_types(spectrum.dtype, table.dtype)
    c, q = spectrum.to(kind).contiguous(), table.contiguous()
    errors = torch.empty_like(c)
    kernels.rounding[(-(-c.numel() // WIDTH),)](c, q, errors, c.numel(), WIDTH, **EXACT)
    return errors


def ssim_maps(moments: Tensor, mean_x: Tensor, variance_x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the map of the SSIM and its derivatives by the three moments; see `freqbench.ops.ssim`."""
    similarity = torch.empty_like(mean_x, memory_format=torch.contiguous_format)
    out, (volumes, voxels) = torch.empty_like(moments), _sizes(similarity)
    given = (each.contiguous() for each in (moments, mean_x, variance_x))
    kernels.maps[(-(-voxels // WIDTH), volumes)](
        *given, similarity, out, voxels, similarity.shape[1], C1, C2, WIDTH, **EXACT
    )
    return similarity, out


def _sizes(x: Tensor) -> tuple[int, int]:
    """Returns the volumes of a batch, channels counted, and the voxels of each."""
    return x.shape[0] * x.shape[1], math.prod(x.shape[2:])
