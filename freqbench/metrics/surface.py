"""Surface distances of two label maps: the 95th percentile of the Hausdorff distance, in the two conventions in use.

D. P. Huttenlocher, G. A. Klanderman, W. J. Rucklidge, "Comparing images using the Hausdorff distance", IEEE TPAMI
15(9), 1993; as released by MONAI (Cardoso et al., 2022, arXiv:2211.02701) and MedPy (O. Maier).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import UserError
from freqbench.metrics._directed import Surface, percentiles
from freqbench.metrics.overlap import foreground_mean
from freqbench.metrics.volumes import Volume, as_array, as_tensor, require_classes, require_same_shape

Convention = Literal["monai", "medpy"]
Vector = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def hd95(
    pred: Volume,
    label: Volume,
    num_classes: int,
    spacing: Sequence[float] | None = None,
    convention: Convention = "monai",
) -> Vector:
    """95th percentile Hausdorff distance of each class, exact.

    With a the distances of the prediction's surface voxels to the label's nearest surface voxel, b the reverse:
    `monai` is max(P95(a), P95(b)), `medpy` is P95 of a and b pooled; P95 is interpolated linearly. A surface is the
    mask minus its erosion by the six-neighbour cross; voxels outside the volume count as background, so a mask's voxels
    at the border of the volume are surface.

    Both conventions come from the same distances: MedPy's own transform of the whole volume (or of the box around both
    masks, which changes no distance) finds exactly these, more slowly; it is a reference of the tests.

    Args:
        pred: predicted classes `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included; at most 256.
        spacing: millimetres a voxel along H, W, D; None: distances in voxels.
        convention: which percentile.

    Returns:
        float64 `[K]`, NaN where either mask is empty.

    Raises:
        UserError: shapes differ, a value is not a class, a spacing is not three positive numbers, no such convention.

    Example:
        >>> import numpy as np
        >>> hd95(np.array([[[1, 0, 0, 0]]]), np.array([[[0, 0, 0, 1]]]), num_classes=3, spacing=(1, 1, 2))
        array([1.8, 6. , nan])
    """
    if convention not in ("monai", "medpy"):
        raise UserError(f"hd95: expected convention 'monai' or 'medpy', got {convention!r}")
    monai, medpy = _both_conventions(
        _surfaces(pred, label, num_classes), _lengths((1.0, 1.0, 1.0) if spacing is None else spacing)
    )
    return monai if convention == "monai" else medpy


def surface_scores(pred: Volume, label: Volume, num_classes: int, spacing: Sequence[float]) -> dict[str, Vector]:
    """All surface distances that the records hold, in one pass over the surfaces.

    On a grid of equal sides millimetres are voxels times the side; else the distances are searched once in each metric,
    as the nearest voxel in one need not be the nearest in the other.

    Args:
        pred: predicted classes `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included; at most 256.
        spacing: millimetres a voxel along H, W, D.

    Returns:
        Three vectors, float64 `[K]`, NaN where either mask is empty: `hd95` (MONAI's convention, voxels), `hd95_mm`
        (MONAI's, millimetres), `hd95_medpy_mm` (MedPy's, millimetres).

    Raises:
        UserError: as `hd95`.
    """
    sides = _lengths(spacing)
    surfaces = _surfaces(pred, label, num_classes)
    voxels, medpy_voxels = _both_conventions(surfaces, np.ones(3))
    if (sides == sides[0]).all():
        return {"hd95": voxels, "hd95_mm": voxels * sides[0], "hd95_medpy_mm": medpy_voxels * sides[0]}
    monai_mm, medpy_mm = _both_conventions(surfaces, sides)
    return {"hd95": voxels, "hd95_mm": monai_mm, "hd95_medpy_mm": medpy_mm}


def hd95_penalised(hd95_mm: Vector, in_label: Mask, shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Foreground mean of the distances in which a missed class counts the volume's diagonal.

    The mean goes over the classes that the label has; an attack that erases an organ is thus charged for it instead of
    losing the term. A hallucinated class, which the label does not have, is not counted here but in its own column.

    Args:
        hd95_mm: `[K]`, NaN where undefined.
        in_label: whether the label has the class, `[K]`.
        shape: voxels along H, W, D.
        spacing: millimetres a voxel along H, W, D.

    Returns:
        Millimetres; NaN where the label has no foreground.

    Raises:
        UserError: a spacing is not three positive numbers.
    """
    diagonal = float(np.linalg.norm(np.asarray(shape) * _lengths(spacing)))
    charged = np.where(np.isnan(hd95_mm), diagonal, hd95_mm)
    return foreground_mean(np.where(in_label, charged, np.nan))


def _lengths(spacing: Sequence[float]) -> Vector:
    sides = np.asarray(spacing, dtype=np.float64)
    if sides.shape != (3,) or not np.isfinite(sides).all() or (sides <= 0).any():
        raise UserError(f"expected a spacing of three positive numbers, got {tuple(spacing)}")
    return sides


def _classes(volume: Volume, num_classes: int) -> npt.NDArray[np.uint8]:
    if not 1 <= num_classes <= 256:
        raise UserError(f"expected 1 to 256 classes, got {num_classes}")
    require_classes(as_tensor(volume), num_classes)
    return as_array(volume).astype(np.uint8, copy=False)


def _edges(classes: npt.NDArray[np.uint8]) -> Mask:
    """Voxels that are surface of their own class: a six-neighbour is of another class or outside the volume."""
    edges = np.zeros(classes.shape, bool)
    for axis in range(3):
        along, marks = np.moveaxis(classes, axis, 0), np.moveaxis(edges, axis, 0)
        differs = along[1:] != along[:-1]
        marks[1:] |= differs
        marks[:-1] |= differs
        marks[0] = marks[-1] = True
    return edges


def _surfaces(pred: Volume, label: Volume, num_classes: int) -> list[tuple[Surface, Surface]]:
    """Prediction's and label's surface of each class, all classes in one pass."""
    maps = _classes(pred, num_classes), _classes(label, num_classes)
    require_same_shape(maps[0].shape, maps[1].shape)
    edges = [_edges(classes) for classes in maps]
    shared = edges[0] & edges[1] & (maps[0] == maps[1])
    sides = []
    for classes, edge in zip(maps, edges, strict=True):
        flat = np.flatnonzero(edge)
        points = np.stack(np.unravel_index(flat, edge.shape)).astype(np.int32)
        kind, common = classes.ravel()[flat], shared.ravel()[flat]
        wanted = [np.flatnonzero(kind == number) for number in range(num_classes)]
        sides.append([Surface(points=points[:, which], shared=common[which]) for which in wanted])
    return list(zip(*sides, strict=True))


def _both_conventions(surfaces: list[tuple[Surface, Surface]], spacing: Vector) -> tuple[Vector, Vector]:
    monai, medpy = np.full((2, len(surfaces)), np.nan)
    for number, (pred, label) in enumerate(surfaces):
        if len(pred.shared) and len(label.shared):
            forth, back, pooled = percentiles(pred, label, spacing)
            monai[number], medpy[number] = max(forth, back), pooled
    return monai, medpy
