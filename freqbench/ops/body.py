"""Finds the patient without the surrounding air."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def body_of(above: Mask) -> Mask:
    """Returns the largest connected component of a mask `[H, W, D]` with its holes filled; all False for an empty mask.

    The mask holds intensities above the window's floor. Neighbours share a face, so that a couch that touches the skin
    with a corner is left out. A hole is background that no path over faces joins to the volume's border: lungs and
    bowel gas belong to the body.
    """
    from scipy import ndimage

    parts, count = ndimage.label(above)
    if not count:
        return np.zeros(parts.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body: Mask = ndimage.binary_fill_holes(parts == sizes.argmax())
    return body
