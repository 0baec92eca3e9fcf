"""The core types that every room shares."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from freqbench.core import names

if TYPE_CHECKING:
    from torch import Tensor  # which takes seconds to import: a dataset is checked without

T = TypeVar("T")
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """One value an axis, as a tuple of three; a ValueError for another number of them."""
    h, w, d = values
    return h, w, d


@dataclass(frozen=True, kw_only=True)
class CaseRef:
    """A case that has not been read: what a plan and an identity need.

    Attributes:
        case_id: unique within its dataset; files are called by it.
        patient_id: several cases of one patient share it.
        fingerprint: 16 hex digits of the content of the case's files.
        shape: voxels of the dataset's preprocessed grid before any cropping: an upper bound, for estimates.
        grid: voxels, and millimetres a voxel, of the file's own grid along its RAS axes; None where nothing says.
    """

    case_id: str
    patient_id: str
    fingerprint: str
    shape: Shape
    grid: tuple[Shape, Spacing] | None = None

    def __post_init__(self) -> None:
        names.required(self.case_id, "case")
        if not self.patient_id:  # statistics cluster by it: cases without one would pass for one patient's
            raise ValueError(f"{self.case_id}: expected a patient_id, got {self.patient_id!r}: give the case's id")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient volume with its label map on the preprocessed grid (RAS orientation).

    Attributes:
        image: float32 `[C, H, W, D]`, intensities in [0, 1].
        label: uint8 `[1, H, W, D]`, classes 0 (background) to `num_classes - 1`.
        spacing: millimetres a voxel of this grid.
        affine: voxel to world millimetres (RAS+), float64 `[4, 4]`, of this grid.
        native_ranges: of each channel, the intensities in the data's own unit (HU for CT) that 0 and 1 stand for.
        original_spacing: millimetres a voxel before preprocessing, in the file's axis order.
    """

    ref: CaseRef
    image: "Tensor"
    label: "Tensor"
    spacing: Spacing
    affine: npt.NDArray[np.float64]
    native_ranges: tuple[tuple[float, float], ...]
    original_spacing: Spacing


@dataclass(frozen=True, kw_only=True)
class NativeCase:
    """One patient volume as its files hold it: its own grid, its own unit; label and affine as of a `Case`.

    Attributes:
        image: float32 `[C, H, W, D]` in the data's own unit (HU for CT), axes as in the file.
        spacing: millimetres a voxel, in the file's axis order.
        source: where the image is, for errors.
    """

    ref: CaseRef
    image: "Tensor"
    label: "Tensor"
    affine: npt.NDArray[np.float64]
    spacing: Spacing
    source: str
