"""Chooses the parts of a volume that a figure shows: the slice, the place of the error, the scale of the change."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy  # submodules are imported on first use

from freqbench.core.types import Window

Array = npt.NDArray[np.generic]

AXIAL = 2
PLANES = {2: "axial", 1: "coronal", 0: "sagittal"}
SIDES = {2: "RLA", 1: "RLS", 0: "APS"}  # of the patient, on the left, the right and on top of a slice of `plane`
VISIBLE = 16 / 255  # twice the largest L-infinity bound of the board, a rule of this project


def plane(volume: Array, axis: int, index: int) -> Array:
    """Returns a slice as a radiologist reads it: superior or anterior on top, patient's right (or front) on the left.
    The volume is `[H, W, D]` along right, anterior, superior; the slice lies across `axis` at `index`."""
    return np.asarray(np.take(volume, index, axis=axis).T[::-1, ::-1])


def aspect(spacing: Sequence[float], axis: int) -> float:
    """Returns height over width of a voxel of `spacing` (millimetres) in a slice of `plane` across `axis`."""
    across, up = (step for other, step in enumerate(spacing) if other != axis)
    return up / across


def busiest(weights: Array, axis: int) -> int:
    """Returns the slice across an axis with the largest sum of absolute weights."""
    others = tuple(other for other in range(3) if other != axis)
    return int(np.argmax(np.abs(weights).sum(axis=others, dtype=float)))


def class_places(mask: Array) -> list[tuple[int, float, float]]:
    """Returns each class in a slice `mask` `[rows, columns]`: its number, and row and column of its largest part
    furthest from the edge."""
    places = []
    for index in np.unique(mask):
        if index:
            parts, _ = scipy.ndimage.label(mask == index)
            largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
            depth = scipy.ndimage.distance_transform_edt(np.pad(parts == largest, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
            places.append((int(index), float(row), float(column)))
    return places


def span(change: Array) -> float:
    """Returns the scale on which a change is shown: its 99.8th percentile in absolute values, above 0."""
    values = np.abs(change)
    return float(np.percentile(values, 99.8)) or float(values.max()) or 1.0


def window_words(window: Window | None) -> str:
    """Returns words for the intensities that are black and white in a picture: the `window` in the file's unit; None:
    unknown.

    >>> window_words((-175.0, 250.0))
    'grey from -175 to 250 in the unit of the file'
    >>> window_words(None)  # unknown
    'grey from 0 to 1'
    """
    low, high = window or (0.0, 1.0)
    return f"grey from {low:.5g} to {high:.5g}" + ("" if (low, high) == (0, 1) else " in the unit of the file")


def visible_words(full: float) -> str:
    """Returns words for a change of this `span`, `full`, if a person sees it: above VISIBLE. No change is called
    invisible: the eye, the display and the anatomy decide on the others."""
    return "visible change" if full > VISIBLE else ""
