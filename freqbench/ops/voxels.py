"""Finds voxels of a volume: those of the patient without the surrounding air, and those whose label counts."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from freqbench.core.types import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

Mask = npt.NDArray[np.bool_]


def body_of(above: Mask) -> Mask:
    """Returns the largest connected component of a mask `[H, W, D]` of intensities above the window's floor, its holes
    filled; all False for an empty mask. Neighbours share a face, so that a couch that touches a corner of the skin is
    left out; lungs and bowel gas are holes, which no path over faces joins to the border."""
    from scipy import ndimage

    parts, count = ndimage.label(above)
    if not count:
        return np.zeros(parts.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(parts == sizes.argmax())


def counted(label: "Tensor", num_classes: int = IGNORED) -> "Tensor | None":
    """Returns the voxels that count, bool in the label's shape; None if all do, or IGNORED is one of the `num_classes`
    classes."""
    if num_classes > IGNORED or int(label.max()) < IGNORED:
        return None
    counts = label != IGNORED
    return None if bool(counts.all()) else counts


def without_ignored(label: "Tensor") -> "Tensor":
    """Returns the label map with background in place of the voxels that do not count."""
    import torch

    counts = counted(label)
    return label if counts is None else torch.where(counts, label, 0)
