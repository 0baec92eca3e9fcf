"""Brings scores of classes from a case's grid back to the grid of its file, row by row, and makes labels there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.core.types import Box, Shape, triple

# Of a voxel. Affines are stored in float32: a place this close to a voxel's middle is that middle.
NEAR = 1e-3
# Of a voxel's step along another axis, from which two grids count as sheared against each other.
SHEARED = 1e-2


class Axis(NamedTuple):
    """Places of the file's voxels along one axis of the case's grid; those before `first` and after lie outside."""

    first: int
    low: Tensor  # int64 [n], the voxel of the grid below each of n places
    high: Tensor  # likewise above; the same where the place is a voxel's middle or beyond the last
    weight: Tensor  # float32 [n], of the voxel above

    @property
    def inside(self) -> slice:
        """The file's voxels inside, counted along the grid's axis."""
        return slice(self.first, self.first + len(self.low))

    def apart(self, values: Tensor, dim: int) -> Tensor:
        """Interpolates values linearly along a dimension."""
        low = values.index_select(dim, self.low)
        # Where no place lies between two voxels, values stay to the bit.
        if torch.equal(self.low, self.high):
            return low
        shape = [1] * values.ndim
        shape[dim] = -1
        return low.lerp_(values.index_select(dim, self.high), self.weight.to(low.dtype).view(shape))


@dataclass(frozen=True, kw_only=True)
class FileGrid:
    """The grid of a file, whose axes run along those of a case's grid in some order and direction."""

    shape: Shape  # voxels of the file, in its own axes
    order: tuple[int, int, int]  # for each axis of the case's grid, the file's axis along it
    reversed: tuple[bool, bool, bool]  # for each axis of the case's grid, true if the file's runs against it
    axes: tuple[Axis, Axis, Axis]  # places of the file's voxels along each axis of the case's grid

    @classmethod
    def of(
        cls, shape: Shape, to_grid: npt.NDArray[np.float64], inner: Box, nearest: Sequence[bool] = (False,) * 3
    ) -> "FileGrid":
        """Makes the grid of a file of this shape, whose voxels `to_grid` maps to those of the case's grid. Voxels more
        than half a voxel beyond `inner`, the part without padding, lie outside; along axes of `nearest` the nearest
        voxel is taken. Raises ValueError if the grids are sheared or rotated against each other."""
        steps = to_grid[:3, :3]
        order = [int(np.abs(row).argmax()) for row in steps]
        own = np.array([steps[axis, along] for axis, along in enumerate(order)])
        beside = np.abs(steps).sum(axis=1) - np.abs(own)
        if sorted(order) != [0, 1, 2] or not (beside < SHEARED * np.abs(own)).all():
            raise ValueError("expected grids along the same axes, got one that is sheared or rotated against the other")
        axes = []
        for axis, (step, along) in enumerate(zip(own, order, strict=True)):
            # In rising order, so that rows of the case are taken in one pass.
            places = to_grid[axis, 3] + step * np.arange(shape[along])
            axes.append(_axis(places[:: 1 if step > 0 else -1], inner[axis], nearest[axis]))
        return cls(shape=shape, order=triple(order), reversed=triple(bool(step < 0) for step in own), axes=triple(axes))

    def in_file(self, along_grid: Tensor) -> Tensor:
        """Turns a map along the axes of the case's grid into the file's axes."""
        turned = along_grid.flip([axis for axis, against in enumerate(self.reversed) if against])
        return turned.permute([self.order.index(axis) for axis in range(3)]).contiguous()


def _axis(places: npt.NDArray[np.float64], inner: tuple[int, int], nearest: bool) -> Axis:
    start, stop = inner
    inside = np.flatnonzero((places > start - 0.5 - NEAR) & (places < stop - 0.5 + NEAR))
    places = places[inside].clip(start, stop - 1)
    places = np.where(np.abs(places - np.rint(places)) < NEAR, np.rint(places), places)
    low = np.floor(places + 0.5 if nearest else places).astype(np.int64)
    weight = np.zeros(len(places)) if nearest else places - low
    high = np.where(weight > 0, low + 1, low)
    first = int(inside[0]) if len(inside) else 0
    return Axis(first, torch.from_numpy(low), torch.from_numpy(high), torch.from_numpy(weight.astype(np.float32)))


class Rows:
    """Takes the rows of scores `[K, W, D]` along the first axis of a case's grid, and hands out those of the file.
    Scores are interpolated linearly. It holds one row at a time: `8 K W' D'` bytes for W' x D' voxels of the file."""

    def __init__(self, grid: FileGrid) -> None:
        self.grid = grid
        self._next = self._made = 0
        self._wanted = {*grid.axes[0].low.tolist(), *grid.axes[0].high.tolist()}
        self._last = torch.zeros(0)

    def take(self, row: Tensor) -> list[tuple[int, Tensor]]:
        """Takes the next row; returns the rows of the file that are known now, with their number along this axis."""
        axis = self.grid.axes[0]
        place = self._next
        self._next += 1
        if place not in self._wanted:
            return []
        row = self.grid.axes[2].apart(self.grid.axes[1].apart(row, 1), 2)
        made = []
        while self._made < len(axis.high) and int(axis.high[self._made]) == place:
            at = self._made
            # The row below is the last that was wanted, as none is wanted between the two of a place.
            is_between = int(axis.low[at]) < place
            made.append((axis.first + at, self._last.lerp(row, float(axis.weight[at])) if is_between else row))
            self._made += 1
        self._last = row
        return made
