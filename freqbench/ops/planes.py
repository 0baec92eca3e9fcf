"""Chooses what of a volume a figure shows: which slice, where the error is, how fine the change is."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy  # a part of it is imported on first use

Array = npt.NDArray[np.generic]
Box = tuple[int, int, int, int]

AXIAL = 2
PLANES = {2: "axial", 1: "coronal", 0: "sagittal"}
MARGIN = 2  # voxels between an error and its box


def plane(volume: Array, axis: int, index: int) -> Array:
    """A slice as a radiologist reads it: superior or anterior on top, the patient's right (or front) on the left.

    The volume is `[H, W, D]` along right, anterior, superior; `axis` is the one that the slice lies across.
    """
    return np.asarray(np.take(volume, index, axis=axis).T[::-1, ::-1])


def aspect(spacing: Sequence[float], axis: int) -> float:
    """Height over width of a voxel in a slice of `plane`."""
    across, up = (step for other, step in enumerate(spacing) if other != axis)
    return up / across


def busiest(weights: Sequence[Array], axis: int) -> int:
    """The slice across an axis in which most of the weights lie, in absolute values, all volumes together."""
    others = tuple(other for other in range(3) if other != axis)
    totals = sum(np.abs(each).sum(axis=others, dtype=float) for each in weights)
    return int(np.argmax(totals))


def error_box(pred: Array, truth: Array) -> Box | None:
    """Left, top, width and height in pixels of the box around the largest connected error of a slice, with a margin;
    None without an error. Errors that touch at corners are one."""
    parts, count = scipy.ndimage.label(pred != truth, structure=np.ones((3, 3)))
    if not count:
        return None
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    rows, columns = scipy.ndimage.find_objects(parts)[largest - 1]
    left, top = max(0, columns.start - MARGIN), max(0, rows.start - MARGIN)
    right, bottom = min(pred.shape[1], columns.stop + MARGIN), min(pred.shape[0], rows.stop + MARGIN)
    return left, top, right - left, bottom - top


def class_places(mask: Array) -> list[tuple[int, float, float]]:
    """Of each class in a slice its number, and row and column of its largest part furthest from the edge."""
    found = []
    for index in np.unique(mask):
        if index:
            parts, _ = scipy.ndimage.label(mask == index)
            largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
            depth = scipy.ndimage.distance_transform_edt(np.pad(parts == largest, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
            found.append((int(index), float(row), float(column)))
    return found


def span(changes: Sequence[Array]) -> float:
    """The scale that all changes are shown on: their 99.8th percentile in absolute values, above 0."""
    values = np.concatenate([np.abs(change).ravel() for change in changes])
    return float(np.percentile(values, 99.8)) or float(values.max()) or 1.0


def radial_spectrum(change: Array, bins: int = 24) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    r"""The change's amplitude by frequency, whatever the direction, from the orthonormal DCT-II of the whole volume.

    Coefficient k has the frequency :math:`f = \sqrt{\sum_a (k_a / 2 N_a)^2}` in cycles a voxel, below
    :math:`\sqrt{3}/2`; a bin's amplitude is the root mean square of its coefficients. White noise of standard deviation
    s is flat at s. Returned are the middles of the bins (of equal width) that hold a coefficient, and their amplitudes.
    """
    power = np.square(scipy.fft.dctn(np.asarray(change, np.float32), norm="ortho"), dtype=np.float64)
    squares = [np.square(np.arange(size) / (2 * size)) for size in change.shape]
    frequency = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
    edge = np.sqrt(3) / 2
    index = np.minimum((frequency / edge * bins).astype(int), bins - 1).ravel()
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=power.ravel(), minlength=bins)
    held = counts > 0
    return ((np.arange(bins) + 0.5) * edge / bins)[held], np.sqrt(sums[held] / counts[held])
