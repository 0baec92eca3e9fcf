"""Follows a label map through preprocessing: which classes lose their voxels at which step, and what is padding."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from freqbench.core.input_space import Preprocess
from freqbench.core.types import LOST, NO_LABEL, Box, triple

if TYPE_CHECKING:
    from torch import Tensor

# Share of a class's volume that may be lost without a word: resampling moves the border of small structures, and a
# crop cuts a few at the edge of the field of view.
MOST_LOST = 0.5


def is_drawn(label: "Tensor") -> bool:
    """True unless a label map stands for one that nobody drew."""
    return not bool((label == NO_LABEL).all())


class LabelWay:
    """A label map's volumes by class after each step of `prepare`, and the grids that bound the part without padding.

    It begins with the file's map, `[1, H, W, D]`, a MetaTensor; without `counts` it follows the grids alone.
    """

    def __init__(self, label: Any, counts: bool) -> None:
        self._counts = counts
        self._voxels = np.zeros(0, np.int64)  # of the file, by class
        self._volumes: dict[str, npt.NDArray[np.float64]] = {}  # mm3 by class, after each step
        self._grids: list[tuple[npt.NDArray[np.float64], Sequence[int]]] = []
        self.take("file", label)

    def take(self, step: str, label: Any, pads: bool = False) -> None:
        """Takes the label map after a step: `crop`, `spacing` or `size`, which `pads` as well."""
        affine = label.affine.numpy()
        if step == "spacing":
            self._grids.clear()  # this grid is all that it leaves of them
        if not pads:
            self._grids.append((affine, label.shape[1:]))
        if self._counts:
            counts = label.as_tensor().byte().flatten().bincount(minlength=NO_LABEL + 1).numpy()
            self._voxels = counts if step == "file" else self._voxels
            self._volumes[step] = counts * abs(float(np.linalg.det(affine[:3, :3])))

    def inner(self, image: Any) -> Box:
        """Returns `Case.inner` of the last grid, that of a MetaTensor `[C, H, W, D]`."""
        to_last = np.linalg.inv(image.affine.numpy())
        low, high = np.zeros(3, int), np.array(image.shape[1:])
        for affine, shape in self._grids:
            first = np.rint((to_last @ affine)[:3, 3]).astype(int)
            low, high = np.maximum(low, first), np.minimum(high, first + np.array(shape))
        return triple(zip(low.tolist(), high.tolist(), strict=True))

    def lost(self, preprocess: Preprocess, class_names: Sequence[str]) -> Iterator[str]:
        """Yields one line per foreground class that lost more than MOST_LOST of its volume, with the worst step.

        A class without a name in `class_names` goes by its number.
        """
        if not self._counts:
            return
        steps, volumes = list(self._volumes), np.stack(list(self._volumes.values()))
        for index in np.flatnonzero(volumes[-1] < (1 - MOST_LOST) * volumes[0]).tolist():
            if 0 < index < NO_LABEL:
                step = steps[1 + int(np.diff(volumes[:, index]).argmin())]
                lost = round(self._voxels[index] * (1 - volumes[-1, index] / volumes[0, index]))
                name = class_names[index] if index < len(class_names) else f"class {index}"
                where = _words(step, preprocess)
                yield f"{LOST}{lost} of {self._voxels[index]} voxels of `{name}` {where}"


def _words(step: str, preprocess: Preprocess) -> str:
    if step == "crop":
        kept = "voxels that are not 0" if preprocess.is_nnunets else "intensities above the lower bound"
        return f"lie outside the crop to {kept}"
    sides = " x ".join(f"{side:g}" for side in getattr(preprocess, step))
    return f"vanish at the spacing {sides} mm" if step == "spacing" else f"lie outside the size {sides}"
