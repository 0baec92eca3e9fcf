"""Finds the distances from the voxels of one surface to another, only as exactly as requested.

A percentile is one or two order statistics, so that for most distances only their side of it matters; the same holds
for a share within a tolerance. A distance changes by at most the way one walks: the distance of a cell's centre bounds
those of all points in the cell. Points whose bounds leave their side open are computed exactly, by a KD-tree, or, if
they are many, by one feature transform of the box. A value from bounds is never an order statistic that counts, so the
result is exact.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.spatial import KDTree  # takes long to import, as does scipy.ndimage

Points = npt.NDArray[np.int32]
Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CELL = 16  # voxels per side: a few thousand centres in a CT volume, bounds within 14 voxels
FEW = 4096  # points below which bounds cost more than they save
NEAR = 2  # voxels that a lookup reaches to each side
SLACK = 1e-9  # voxels: far above rounding, far below any difference of two distances that matters

# Measured on one core: 0.08 us per voxel of a feature transform; 2 us per KD-tree query, and as much again for every
# 500,000 targets x voxels of distance, since a far query sees many targets at nearly the same distance (25 us in the
# background of a noisy prediction). The transform pays up to this many voxels per query; with bounds first, only a
# fraction of the points needs a query.
VOXELS_A_QUERY = 25
FAR = 500_000
VOXELS_A_POINT = 8
# Building a tree of many targets for few points costs more than searching around each of them.
TARGETS_A_LOOKUP = 8


@dataclass(frozen=True, kw_only=True)
class Surface:
    """One class's surface voxels `[3, N]`, and a mask `[N]` of those that the other map's surface shares."""

    points: Points
    shared: Mask


class Search:
    """Distances from one surface to another: exact or bounded, and exact where `settle` needs them.

    `bounds` holds the lower and upper bound of each point's distance, `[2, N]`; they are equal if it is exact.
    """

    def __init__(self, source: Surface, target: Surface, spacing: Values) -> None:
        self.target, self.spacing = target.points, spacing
        self.open = np.flatnonzero(~source.shared)  # a shared voxel is at distance 0
        self.points = source.points[:, self.open]
        self.bounds = np.zeros((2, source.points.shape[1]))
        count = len(self.open)
        if not count:
            return
        if count * TARGETS_A_LOOKUP < self.target.shape[1]:
            self._look_around()
        elif count * VOXELS_A_POINT > _box(self.points, self.target)[1].prod():
            self._set(self.open, self._transform(self.points))
        elif count <= FEW:
            self._set(self.open, self._nearest(self.points))
        else:
            self._bound_by_cells()

    def settle(self, *windows: tuple[float, float]) -> None:
        """Makes every distance exact that may lie inside one of the windows."""
        lower, upper = self.bounds[:, self.open]
        inside = np.zeros(len(lower), bool)
        for low, high in windows:
            inside |= (upper >= low) & (lower <= high)
        which = np.flatnonzero(inside & (lower < upper))
        if not len(which):
            return
        asked = self.points[:, which]
        distance = lower[which].mean() / self.spacing.mean()
        price = VOXELS_A_QUERY * (1 + self.target.shape[1] * distance / FAR)
        is_costly = len(which) * price > _box(asked, self.target)[1].prod()
        self._set(self.open[which], self._transform(asked) if is_costly else self._nearest(asked))

    def _set(self, which: npt.NDArray[np.intp], exact: Values) -> None:
        self.bounds[:, which] = exact

    @cached_property
    def tree(self) -> "KDTree":
        """KD-tree of the targets; split at midpoints it is built in a third of the time and answers as fast."""
        from scipy.spatial import KDTree

        return KDTree(self.target.T * self.spacing, leafsize=32, balanced_tree=False, compact_nodes=False)

    def _nearest(self, places: Points | Values) -> Values:
        """Returns distances of places `[3, N]`, given in voxels, by KD-tree."""
        return np.asarray(self.tree.query(places.T * self.spacing)[0])

    def _transform(self, places: Points) -> Values:
        """Returns distances of places `[3, N]`, in voxels, by one transform of the box around them and the targets."""
        from scipy.ndimage import distance_transform_edt

        corner, size = _box(places, self.target)
        elsewhere = np.ones(size, bool)
        elsewhere[tuple(self.target - corner)] = False
        # The places of the nearest targets cost half as much as the distance map; distances are then computed where
        # needed.
        nearest = distance_transform_edt(elsewhere, self.spacing, return_distances=False, return_indices=True)
        here = places - corner
        flat = np.ravel_multi_index(tuple(here), tuple(size))
        square = np.zeros(len(flat))
        for axis in range(3):
            square += ((nearest[axis].ravel()[flat] - here[axis]) * self.spacing[axis]) ** 2
        return np.sqrt(square, out=square)

    def _bound_by_cells(self) -> None:
        """Bounds all open points from the exact distances of the centres of their cells."""
        cells = self.points // CELL
        size = tuple(cells.max(axis=1) + 1)
        key = np.ravel_multi_index(tuple(cells), size)
        used = np.flatnonzero(np.bincount(key))
        middle = (CELL - 1) / 2
        of_cell = np.zeros(int(np.prod(size)))
        centres = (np.stack(np.unravel_index(used, size)) * CELL + middle).astype(np.float64)
        of_cell[used] = self._nearest(centres)
        from_centre = (self.points % CELL - middle) * self.spacing[:, None]
        reach: Values = np.sqrt((from_centre**2).sum(axis=0)) + SLACK * self.spacing.max()
        self.bounds[:, self.open] = np.maximum(of_cell[key] - reach, 0), of_cell[key] + reach

    def _look_around(self) -> None:
        """Computes exact distances: by a bit map for points with a target close by, by KD-tree for the others."""
        corner, size = _box(self.points, self.target)
        corner, size = corner - NEAR, size + 2 * NEAR
        occupied = np.zeros(size, bool)
        occupied[tuple(self.target - corner)] = True
        occupied = occupied.ravel()
        strides = np.array([size[1] * size[2], size[2], 1])
        flat = strides @ (self.points - corner)
        offsets = np.array(list(product(range(-NEAR, NEAR + 1), repeat=3)))
        lengths = np.linalg.norm(offsets * self.spacing, axis=1)
        # Outside the cube a target may lie at NEAR + 1 voxels of the shortest side: only shorter distances are certain.
        certain = np.flatnonzero(lengths < (NEAR + 1) * self.spacing.min())
        distances, left = np.empty(len(flat)), np.arange(len(flat))
        for number in certain[np.argsort(lengths[certain], kind="stable")]:
            hit = occupied[flat[left] + offsets[number] @ strides]
            distances[left[hit]] = lengths[number]
            left = left[~hit]
        if len(left):
            distances[left] = self._nearest(self.points[:, left])
        self._set(self.open, distances)


def _box(first: Points, second: Points) -> tuple[Points, Points]:
    """Returns low corner `[3, 1]` and size `[3]` of the box around two sets of points."""
    low = np.minimum(first.min(axis=1), second.min(axis=1))
    return low[:, None], np.maximum(first.max(axis=1), second.max(axis=1)) - low + 1
