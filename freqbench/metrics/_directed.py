"""95th percentiles of the distances between two sets of surface voxels, exact, by whichever way is cheapest.

A percentile is one or two order statistics, so most distances need not be known, only on which side of them they lie.
A distance changes by at most the way one walks: the distance of a cell's centre bounds those of all points in the cell.
Points whose bounds leave their side open are asked exactly, by a KD-tree, or, where they are many, by one feature
transform of the box. What is taken from bounds is never an order statistic that counts, so the result is exact.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

Points = npt.NDArray[np.int32]
Values = npt.NDArray[np.float64]

QUANTILE = 0.95
CELL = 16  # voxels a side: a few thousand centres in a CT volume, bounds within 14 voxels
FEW = 4096  # points below which bounds cost more than they save
NEAR = 2  # voxels a side that a lookup reaches
SLACK = 1e-9  # voxels: far above rounding, far below any difference of two distances that matters

# Measured on one core: 0.08 us a voxel of a feature transform; 2 us a KD-tree query, and as much again for every
# 500,000 targets x voxels of distance, since a far query sees many targets at nearly one distance (25 us in the
# background of a noisy prediction). So the transform pays from this many voxels a query on; with bounds first a query
# is needed for a fraction of the points only.
VOXELS_A_QUERY = 25
FAR = 500_000
VOXELS_A_POINT = 8
# Building a tree of many targets for few points is dearer than looking around each of them.
TARGETS_A_LOOKUP = 8


@dataclass(frozen=True, kw_only=True)
class Surface:
    """One class's surface voxels `[3, N]`, and which of them are surface of that class in the other mask too `[N]`."""

    points: Points
    shared: npt.NDArray[np.bool_]


@dataclass
class Bounds:
    """What is known of the distances of a set of points: `lower <= distance <= upper`, equal where exact."""

    lower: Values
    upper: Values


def percentiles(pred: Surface, label: Surface, spacing: Values) -> tuple[float, float, float]:
    """P95 of the distances prediction to label, label to prediction, and of both sets together.

    Args:
        pred: surface of the prediction; not empty.
        label: surface of the label; not empty.
        spacing: length of a voxel's sides, `[3]`.

    Returns:
        Three distances in the unit of `spacing`, linearly interpolated between ranks as `numpy.percentile` does.
    """
    forth, back = _Search(pred, label, spacing), _Search(label, pred, spacing)
    pairs = (forth.bounds, back.bounds)
    pooled = Bounds(*(np.concatenate([getattr(pair, side) for pair in pairs]) for side in ("lower", "upper")))
    windows = [_window(bounds) for bounds in (*pairs, pooled)]
    forth.settle(windows[0], windows[2])
    back.settle(windows[1], windows[2])
    distances = forth.bounds.upper, back.bounds.upper
    first, second, together = (np.percentile(d, 100 * QUANTILE) for d in (*distances, np.concatenate(distances)))
    return float(first), float(second), float(together)


def _window(bounds: Bounds) -> tuple[float, float]:
    """Between which lengths the ranks lie that the percentile interpolates."""
    rank = QUANTILE * (len(bounds.lower) - 1)
    low, high = int(np.floor(rank)), int(np.ceil(rank))
    return float(np.partition(bounds.lower, low)[low]), float(np.partition(bounds.upper, high)[high])


class _Search:
    """Distances from one surface to another: exact or bounded, and exact where `settle` is told that it matters."""

    def __init__(self, source: Surface, target: Surface, spacing: Values) -> None:
        self.target, self.spacing = target.points, spacing
        self.open = np.flatnonzero(~source.shared)  # a shared voxel is at distance 0
        self.points = source.points[:, self.open]
        self.tree: KDTree | None = None
        self.bounds = Bounds(*np.zeros((2, source.points.shape[1])))
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
        """Make exact every distance that may lie inside one of the windows."""
        lower, upper = self.bounds.lower[self.open], self.bounds.upper[self.open]
        inside = np.zeros(len(lower), bool)
        for low, high in windows:
            inside |= (upper >= low) & (lower <= high)
        which = np.flatnonzero(inside & (lower < upper))
        if not len(which):
            return
        asked = self.points[:, which]
        distance = lower[which].mean() / self.spacing.mean()
        price = VOXELS_A_QUERY * (1 + self.target.shape[1] * distance / FAR)
        dear = len(which) * price > _box(asked, self.target)[1].prod()
        self._set(self.open[which], self._transform(asked) if dear else self._nearest(asked))

    def _set(self, which: npt.NDArray[np.intp], exact: Values) -> None:
        self.bounds.lower[which] = self.bounds.upper[which] = exact

    def _nearest(self, places: Points | Values) -> Values:
        """Distances of places `[3, N]`, in voxels, by KD-tree."""
        if self.tree is None:
            # A tree split at midpoints is built in a third of the time and answers as fast.
            targets = self.target.T * self.spacing
            self.tree = KDTree(targets, leafsize=32, balanced_tree=False, compact_nodes=False)
        return np.asarray(self.tree.query(places.T * self.spacing)[0])

    def _transform(self, places: Points) -> Values:
        """Distances of places `[3, N]`, in voxels, by one transform of the box around them and the targets."""
        corner, size = _box(places, self.target)
        elsewhere = np.ones(size, bool)
        elsewhere[tuple(self.target - corner)] = False
        # The places of the nearest targets cost half of the distance map; distances are then made where needed only.
        nearest = distance_transform_edt(elsewhere, self.spacing, return_distances=False, return_indices=True)
        here = places - corner
        flat = np.ravel_multi_index(tuple(here), tuple(size))
        square = np.zeros(len(flat))
        for axis in range(3):
            square += ((nearest[axis].ravel()[flat] - here[axis]) * self.spacing[axis]) ** 2
        return np.sqrt(square, out=square)

    def _bound_by_cells(self) -> None:
        """Bounds of all open points from the exact distances of the centres of their cells."""
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
        self.bounds.lower[self.open] = np.maximum(of_cell[key] - reach, 0)
        self.bounds.upper[self.open] = of_cell[key] + reach

    def _look_around(self) -> None:
        """Exact distances of points with a target close by, through a bit map; of the others by KD-tree."""
        corner, size = _box(self.points, self.target)
        corner, size = corner - NEAR, size + 2 * NEAR
        occupied = np.zeros(size, bool)
        occupied[tuple(self.target - corner)] = True
        occupied = occupied.ravel()
        strides = np.array([size[1] * size[2], size[2], 1])
        flat = strides @ (self.points - corner)
        offsets = np.array(list(product(range(-NEAR, NEAR + 1), repeat=3)))
        lengths = np.linalg.norm(offsets * self.spacing, axis=1)
        # Outside the cube a target may lie at NEAR + 1 voxels of the shortest side: only what is shorter is certain.
        certain = np.flatnonzero(lengths < (NEAR + 1) * self.spacing.min())
        found, left = np.empty(len(flat)), np.arange(len(flat))
        for number in certain[np.argsort(lengths[certain], kind="stable")]:
            hit = occupied[flat[left] + offsets[number] @ strides]
            found[left[hit]] = lengths[number]
            left = left[~hit]
        if len(left):
            found[left] = self._nearest(self.points[:, left])
        self._set(self.open, found)


def _box(first: Points, second: Points) -> tuple[Points, Points]:
    """Low corner `[3, 1]` and size `[3]` of the box around two sets of points."""
    low = np.minimum(first.min(axis=1), second.min(axis=1))
    return low[:, None], np.maximum(first.max(axis=1), second.max(axis=1)) - low + 1
