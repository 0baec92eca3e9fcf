"""Builds ROG: a triangular lattice of cells that exchange features between four resolutions.
Daza, Pérez, Arbeláez, *Towards Robust General Medical Image Segmentation*, MICCAI 2021, arXiv:2107.04263. Modules
have the names of the authors' code."""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from freqbench.core.types import Shape, triple
from freqbench.models.networks.architectures import lattice_stride
from freqbench.models.networks.construction import sequence

_LEVELS = 4
_DEPTHS = 9
_STEM = -1  # the level of the first stem


class ROG(nn.Module):
    """Maps `[B, in_channels, h, w, d]` to logits `[B, out_channels, h, w, d]`; `strides` limits the windows' sizes.

    As published: two strided stems; nine layers with cells at every other resolution, the coarsest in the middle. A
    cell sums the features that arrive from its own resolution and both neighbours, adds two depthwise separable
    convolutions, and passes the result on through 1x1x1 convolutions; swish, instance norm, 64 to 512 channels, no
    bias. The skip from the first stem, a convolution, upsampling and a last one make the logits.

    **Differs from** the authors' code: nothing. State dicts have its names and shapes without the prefix `module.ROG.`,
    and logits and gradients agree with that code to 1e-12 in float64, for the strides of all ten tasks.

    Args:
        strides: strides of the first stem, of the second, and between the two finest resolutions, each on three axes.
            The coarser resolutions are a factor of 2 apart, so that a side of a window must be a multiple of 4 times
            the product of its axis's strides. They depend on the task in the authors' code.
        channels: channels of the finest resolution of the lattice.

    Raises ValueError for other than three strides of three positive integers, or for channels that are odd.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        strides: Sequence[Sequence[int]] = ((2, 2, 1), (2, 2, 1), (2, 2, 2)),
        channels: int = 64,
    ) -> None:
        super().__init__()
        lattice_stride(strides)
        if channels < 2 or channels % 2:
            raise ValueError(f"expected channels of a positive even integer, got {channels}")
        half = channels // 2
        first, second, third = map(triple, strides)
        fine = [_separable(in_channels, half), _norm(half), nn.SiLU(), _separable(half, half, first), _norm(half)]
        coarse = [_separable(half, half), _norm(half), nn.SiLU(), _separable(half, channels, second), _norm(channels)]
        self.stem = nn.ModuleList([nn.Sequential(*fine, nn.SiLU()), nn.Sequential(*coarse)])
        factors = (second, third, (2, 2, 2), (2, 2, 2))  # from each level to the next finer one
        self.backbone = nn.ModuleList(_Layer(depth, channels, factors) for depth in range(_DEPTHS))
        self.combination = nn.Sequential(nn.SiLU(), nn.Conv3d(half, half, 3, padding=1, bias=False), _norm(half))
        self.factor = first
        self.final = nn.Sequential(nn.SiLU(), nn.Conv3d(half, out_channels, 1, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits at full size of images `[B, in_channels, h, w, d]`."""
        fine = self.stem[0](images)
        waiting = {0: self.stem[1](fine)}
        for layer in self.backbone:
            waiting = layer(waiting)
        return self.final(_upsample(self.combination(waiting[_STEM] + fine), self.factor))


def _has_cell(depth: int, level: int) -> bool:
    """True if the lattice has a cell there: a triangle over nine layers, each with every other level."""
    return 0 <= level <= min(depth, _DEPTHS - 1 - depth, _LEVELS - 1) and (depth - level) % 2 == 0


class _Layer(nn.Module):
    """The cells of one depth, the finest first."""

    def __init__(self, depth: int, channels: int, factors: Sequence[Shape]) -> None:
        super().__init__()
        self.levels = [level for level in range(_LEVELS) if _has_cell(depth, level)]
        self.cells = nn.ModuleList(_Cell(depth, level, channels << level, factors) for level in self.levels)

    def forward(self, waiting: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Returns the sums of features that wait at each level after this layer, from those `waiting` before it."""
        after = dict(waiting)
        for level, cell in zip(self.levels, self.cells, strict=True):
            for way, features in cell(after.pop(level)).items():
                there = after.get(level + way)
                after[level + way] = features if there is None else there + features
        return after


class _Cell(nn.Module):
    """y = x + core(x); projections of y go to the next layer one level up and one down, y itself skips a layer."""

    def __init__(self, depth: int, level: int, channels: int, factors: Sequence[Shape]) -> None:
        super().__init__()
        self.factor = factors[level]
        self.passes_on = _has_cell(depth + 2, level)
        self.up = self.down = None
        if level or depth == _DEPTHS - 1:  # the very last cell leads back to the stem's resolution
            self.up = _projection(channels, channels // 2, (1, 1, 1))
        if _has_cell(depth + 1, level + 1):
            self.down = _projection(channels, channels * 2, factors[level + 1])
        self.core = nn.Sequential(
            *(nn.SiLU(), _separable(channels, channels), _norm(channels)),
            *(nn.SiLU(), _separable(channels, channels), _norm(channels)),
        )

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Returns features by the number of levels that they go down, of the sum `x` that waits at the cell."""
        x = x + self.core(x)
        leaving = {}
        if self.up:
            leaving[-1] = _upsample(self.up(x), self.factor)
        if self.passes_on:
            leaving[0] = x
        if self.down:
            leaving[1] = self.down(x)
        return leaving


def _separable(before: int, after: int, stride: Shape = (1, 1, 1)) -> nn.Sequential:
    """Returns a convolution of 3x3x3 in each channel by itself, then one of 1x1x1 across channels."""
    conv = nn.Conv3d(before, before, 3, stride, padding=1, groups=before, bias=False)
    return sequence(conv=conv, pointwise=nn.Conv3d(before, after, 1, bias=False))


def _norm(channels: int) -> nn.Sequential:
    return sequence(norm=nn.InstanceNorm3d(channels, affine=True))


def _projection(before: int, after: int, stride: Shape) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Conv3d(before, after, 1, stride, bias=False), _norm(after))


def _upsample(x: Tensor, factor: Shape) -> Tensor:
    return F.interpolate(x, scale_factor=list(map(float, factor)), mode="trilinear", align_corners=True)
