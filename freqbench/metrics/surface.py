"""Measures surface distances of two label maps: HD95 in the two conventions in use, ASSD and NSD, exact and cheap.
D. P. Huttenlocher, G. A. Klanderman, W. J. Rucklidge, "Comparing images using the Hausdorff distance", IEEE TPAMI
15(9), 1993; S. Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy", J Med
Internet Res 23(7), 2021 (NSD); as released by MONAI (Cardoso et al., 2022, arXiv:2211.02701) and MedPy (O. Maier)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import UserError
from freqbench.metrics.overlap import Values, foreground_mean
from freqbench.metrics.volumes import Volume, borders, class_maps, lengths

Mask = npt.NDArray[np.bool_]
Convention = Literal["monai", "medpy"]
Sides = Sequence[float] | None  # of a voxel along H, W, D in millimetres; None: distances in voxels

QUANTILE = 0.95
SLACK = 1e-9  # voxels: far above rounding, far below any difference of two distances that matters
VOXELS_A_QUERY = 25  # voxels of a feature transform that take as long as one query of the tree: 0.08 us each


@dataclass(frozen=True, kw_only=True)
class Surface:
    """One class's surface voxels `[3, N]`, and a mask `[N]` of those that the other map's surface shares."""

    points: npt.NDArray[np.int32]
    shared: Mask


def hd95(
    pred: Volume, label: Volume, num_classes: int, spacing: Sides = None, convention: Convention = "monai"
) -> Values:
    """Returns the 95th percentile Hausdorff distance of each class, exact.

    With a the distances of the prediction's surface voxels to the label's nearest surface voxel, b the reverse:
    `monai` is max(P95(a), P95(b)), `medpy` is P95 of a and b pooled; P95 is interpolated linearly. A surface is the
    mask minus its erosion by the six-neighbour cross; voxels outside the volume count as background, so a mask's voxels
    at the border of the volume are surface.

    Args:
        pred: predicted classes `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included; at most 256.
        spacing: sides of a voxel in millimetres along H, W, D; None: distances in voxels.
        convention: the percentile to use.

    Returns:
        Float64 `[K]`, NaN if either mask is empty.

    Raises:
        UserError: shapes differ, a value is no class, a spacing is not three positive numbers, unknown convention.

    Example:
        >>> import numpy as np
        >>> hd95(np.array([[[1, 0, 0, 0]]]), np.array([[[0, 0, 0, 1]]]), num_classes=3, spacing=(1, 1, 2))
        array([1.8, 6. , nan])
    """
    if convention not in ("monai", "medpy"):
        raise UserError(f"hd95: expected convention 'monai' or 'medpy', got {convention!r}")
    monai, medpy = _both_conventions(_surfaces(pred, label, num_classes), lengths(spacing))
    return monai if convention == "monai" else medpy


def hd95_of_masks(pred: Mask, label: Mask, spacing: Sequence[float]) -> float:
    """Returns `hd95` of class 1 alone (MONAI's convention), where background counts as no class; raises as it.

    Args:
        pred: predicted voxels, bool `[H, W, D]`.
        label: true voxels, bool `[H, W, D]`.
        spacing: sides of a voxel in millimetres along H, W, D.
    """
    (_, surfaces) = _surfaces(pred.view(np.uint8), label.view(np.uint8), 2)
    return float(_both_conventions([surfaces], lengths(spacing))[0][0])


def surface_scores(pred: Volume, label: Volume, num_classes: int, spacing: Sequence[float]) -> dict[str, Values]:
    """Returns `hd95` (MONAI's convention, voxels), `hd95_mm` (the same in mm), `hd95_medpy_mm` (MedPy's) in one pass.

    `pred`, `label`, `num_classes`, `spacing` (mm), vectors and errors are those of `hd95`. On a grid of equal sides,
    millimetres are voxels times the side; otherwise the distances are searched once in each unit, as the nearest voxel
    may differ."""
    sides = lengths(spacing)
    surfaces = _surfaces(pred, label, num_classes)
    voxels, medpy_voxels = _both_conventions(surfaces, np.ones(3))
    side = sides[0]
    if (sides == side).all():
        return {"hd95": voxels, "hd95_mm": voxels * side, "hd95_medpy_mm": medpy_voxels * side}
    monai_mm, medpy_mm = _both_conventions(surfaces, sides)
    return {"hd95": voxels, "hd95_mm": monai_mm, "hd95_medpy_mm": medpy_mm}


def hd95_penalised(hd95_mm: Values, in_label: Mask, shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Returns the foreground mean of HD95 over the classes that the label has; the diagonal counts for a missed one.

    NaN if the label has no class. Hallucinated classes have their own column.

    Args:
        hd95_mm: distances by class in millimetres, `[K]`.
        in_label: the classes that the label has, bool `[K]`.
        shape: voxels along H, W, D.
        spacing: sides of a voxel in millimetres along H, W, D.
    """
    diagonal = float(np.linalg.norm(np.asarray(shape) * lengths(spacing)))
    return foreground_mean(np.where(in_label, np.where(np.isnan(hd95_mm), diagonal, hd95_mm), np.nan))


def nsd(
    pred: Volume, label: Volume, num_classes: int, tolerance: float | Sequence[float], spacing: Sides = None
) -> Values:
    r"""Returns the normalised surface Dice of each foreground class: the share of both surfaces near the other.

    With S_P and S_L the surface voxels (as in `hd95`), d(v, S) the distance to the nearest of S, and tau the tolerance:

    .. math:: \frac{|\{v \in S_P : d(v, S_L) \le \tau\}| + |\{v \in S_L : d(v, S_P) \le \tau\}|}{|S_P| + |S_L|}

    This is MONAI's `compute_surface_dice`, except for a class that only the prediction has, which is 0 there and NaN
    here. Voxels count equally; DeepMind's `surface-distance` weights them by the area of their surface.

    Args:
        pred: predicted classes `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included; at most 256.
        tolerance: at least 0, in the unit of `spacing`: one for all classes, or one a foreground class, `[K - 1]`.
        spacing: sides of a voxel in millimetres along H, W, D; None: distances in voxels.

    Returns:
        Float64 `[K]`: 0 if the prediction misses the class; NaN if the label does not have it, and for class 0.

    Raises:
        UserError: as `hd95`, or for a wrong number of tolerances, or one below 0.
    """
    sides = lengths(spacing)
    limits = np.asarray(tolerance, dtype=np.float64)
    if limits.shape not in ((), (num_classes - 1,)) or not (limits >= 0).all():
        raise UserError(f"nsd: expected a tolerance of at least 0, or {num_classes - 1} of them, got {tolerance}")
    limits = np.append(np.nan, np.broadcast_to(limits, num_classes - 1)) + SLACK * sides.max()
    shares = np.full(num_classes, np.nan)
    for number, (predicted, labelled) in enumerate(_surfaces(pred, label, num_classes)):
        if number and len(labelled.shared):
            limit = limits[number]
            shares[number] = 0.0
            if len(predicted.shared):
                shares[number] = (np.concatenate(_distances(predicted, labelled, sides)) <= limit).mean()
    return shares


def nsd_scores(
    pred: Volume, label: Volume, num_classes: int, tolerances: Sequence[float], spacing: Sequence[float]
) -> dict[str, Values]:
    """Returns `nsd` of `pred`, `label`, `num_classes` and `spacing` (mm), and the `tolerances` in mm that it used, one
    for each foreground class."""
    shares = nsd(pred, label, num_classes, tolerances, spacing)
    return {"nsd": shares, "nsd_tolerance_mm": np.array([np.nan, *tolerances])}


def assd(pred: Volume, label: Volume, num_classes: int, spacing: Sides = None) -> Values:
    """Returns the average symmetric surface distance of each foreground class, over the voxels of both surfaces.

    This is MONAI's `compute_average_surface_distance` with `symmetric=True`, and MedPy's `assd` in 0.5.2; in older
    versions that is the mean of the two means. `pred`, `label`, `num_classes`, `spacing`, errors and result are those
    of `hd95`, but NaN for class 0."""
    sides = lengths(spacing)
    means = np.full(num_classes, np.nan)
    for number, (predicted, labelled) in enumerate(_surfaces(pred, label, num_classes)):
        if number and len(predicted.shared) and len(labelled.shared):
            means[number] = np.concatenate(_distances(predicted, labelled, sides)).mean()
    return means


def _edges(classes: npt.NDArray[np.uint8]) -> Mask:
    """Marks voxels that are surface of their own class: a six-neighbour is of another class or outside the volume."""
    edges = borders(classes)
    for axis in range(3):
        np.moveaxis(edges, axis, 0)[[0, -1]] = True
    return edges


def _surfaces(pred: Volume, label: Volume, num_classes: int) -> list[tuple[Surface, Surface]]:
    """Returns prediction's and label's surface of each class, all classes in one pass."""
    maps = class_maps(pred, label, num_classes)
    edges = [_edges(classes) for classes in maps]
    shared = edges[0] & edges[1] & (maps[0] == maps[1])
    sides = []
    for classes, edge in zip(maps, edges, strict=True):
        flat = np.flatnonzero(edge)
        points = np.stack(np.unravel_index(flat, edge.shape)).astype(np.int32)
        kind = classes.ravel()[flat]
        common = shared.ravel()[flat]
        wanted = [np.flatnonzero(kind == number) for number in range(num_classes)]
        sides.append([Surface(points=points[:, which], shared=common[which]) for which in wanted])
    return list(zip(*sides, strict=True))


def _both_conventions(surfaces: list[tuple[Surface, Surface]], spacing: Values) -> tuple[Values, Values]:
    """Returns the larger P95 of both directions, and P95 of both pooled; NaN for a class with an empty surface."""
    monai, medpy = np.full((2, len(surfaces)), np.nan)
    for number, (pred, label) in enumerate(surfaces):
        if len(pred.shared) and len(label.shared):
            each = _distances(pred, label, spacing)
            monai[number] = max(np.percentile(distances, 100 * QUANTILE) for distances in each)
            medpy[number] = np.percentile(np.concatenate(each), 100 * QUANTILE)
    return monai, medpy


def _distances(pred: Surface, label: Surface, spacing: Values) -> tuple[Values, Values]:
    """Returns the distances from the prediction's surface to the label's, and back; neither is empty."""
    return _nearest_distances(pred, label, spacing), _nearest_distances(label, pred, spacing)


def _nearest_distances(source: Surface, target: Surface, spacing: Values) -> Values:
    """Returns the distance `[N]` from each voxel of a surface to the nearest of another; neither is empty."""
    from scipy.ndimage import distance_transform_edt  # takes long to import, as does scipy.spatial
    from scipy.spatial import KDTree

    apart = ~source.shared
    distances = np.zeros(len(apart))
    places = source.points[:, apart]
    targets = target.points
    if not places.size:
        return distances
    low = np.minimum(places.min(axis=1), targets.min(axis=1))[:, None]
    size = np.maximum(places.max(axis=1), targets.max(axis=1)) - low[:, 0] + 1
    if places.shape[1] * VOXELS_A_QUERY > size.prod():
        elsewhere = np.ones(size, bool)
        elsewhere[tuple(targets - low)] = False
        # The nearest targets' places take half the time and memory of the map of distances.
        nearest = distance_transform_edt(elsewhere, spacing, return_distances=False, return_indices=True)
        here = places - low
        steps = (nearest[(slice(None), *here)] - here) * spacing[:, None]
        distances[apart] = np.sqrt((steps**2).sum(axis=0))
    else:
        # Split at midpoints, a tree is built in a third of the time and answers as fast.
        tree = KDTree(targets.T * spacing, leafsize=32, balanced_tree=False, compact_nodes=False)
        distances[apart] = tree.query(places.T * spacing)[0]
    return distances
