"""The core types that every room shares."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from freqbench.core import names

if TYPE_CHECKING:
    from torch import Tensor  # takes seconds to import, and checking a dataset does not need it

T = TypeVar("T")
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Window = tuple[float, float]  # the intensities of a channel in the data's own unit that became 0 and 1
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Reference = Literal["label", "prediction"]
Outputs = Literal["softmax", "sigmoid"]
"""The function that makes probabilities of a network's outputs: exclusive classes, or regions that may overlap."""
AGREEMENT = " (agreement)"
"""Follows a dataset's name in tables if predictions are held against the models' own clean ones."""
IN_FILE = " (file grid)"  # follows a dataset's name in tables if predictions are scored on the grids of the files
LOST = "label voxels are lost: "  # begins each line that says that a grid lacks label voxels of the file
NO_LABEL = 255
"""Placeholder in a label map that does not exist. A model's clean prediction replaces it; scoring against it is
refused."""
IGNORED = 254  # marks voxels of a label map that do not count in losses, metrics and success (`freqbench.ops.voxels`)


class ScoredOn(StrEnum):
    """Grid on which predictions are held against labels: the one that is attacked, or that of each case's file."""

    GRID = "grid"
    FILE = "file"

    @property
    def key(self) -> str:
        """The line of a job that asks for it."""
        return f"score_on: {self}"

    @property
    def identity(self) -> dict[str, str]:
        """The part of a cell's identity: none for the grid that is attacked, as it was before there was another."""
        return {"score_on": self.value} if self == ScoredOn.FILE else {}

    @property
    def mark(self) -> str:
        """The end of a dataset's name in tables."""
        return IN_FILE if self == ScoredOn.FILE else ""


def dataset_name(shown: str) -> str:
    """Returns a dataset's name in jobs, from its name in tables.

    >>> dataset_name("heart (file grid) (agreement)")
    'heart'
    """
    return shown.removesuffix(AGREEMENT).removesuffix(IN_FILE)


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Returns one value per axis as a tuple of three; raises ValueError for another number of values."""
    h, w, d = values
    return h, w, d


@dataclass(frozen=True, kw_only=True)
class CaseRef:
    """A case that has not been read: all that a plan and an identity need.

    Attributes:
        case_id: unique within its dataset; part of file names.
        patient_id: shared by several cases of one patient.
        fingerprint: 16 hex digits of the content of the case's files.
        shape: voxels of the dataset's preprocessed grid before any cropping: an upper bound, for estimates.
        grid: voxels of the file's own grid along its RAS axes, and their sides in millimetres; None if unknown.
        axes: directions in which the axes of the file's array increase, as in LPS; those of an array are its own.
    """

    case_id: str
    patient_id: str
    fingerprint: str
    shape: Shape
    grid: tuple[Shape, Spacing] | None = None
    axes: str = "RAS"

    def __post_init__(self) -> None:
        names.require_name(self.case_id, "case")
        if not self.patient_id:  # statistics cluster by it: cases without one would pass for one patient's
            raise ValueError(f"{self.case_id}: expected a patient_id, got {self.patient_id!r}: give the case's id")


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Bounds and tensors that a network's own pipeline made beside the volume x in [0, 1] that attacks move.
    The network's input is `low + (high - low) x + rest`; where voxels are `fixed`, it is `rest`, whatever x is."""

    bounds: tuple[tuple[float, float], ...]  # of each channel, low and high: intensities that 0 and 1 of x are
    rest: "Tensor | None"  # float32 `[C, H, W, D]`: beyond the bounds, and the input where fixed; None: 0 everywhere
    fixed: "Tensor | None"  # bool `[C, H, W, D]`: filled by the pipeline, not an attack's to move; None: none
    facts: Mapping[str, Any]  # plain data that lead back to the file


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient volume with its label map on the preprocessed grid (RAS orientation).

    Attributes:
        image: float32 `[C, H, W, D]`, intensities in [0, 1].
        label: uint8 `[1, H, W, D]`, classes 0 (background) to `num_classes - 1`; IGNORED for voxels that do not count.
        spacing: sides of this grid's voxels in millimetres.
        affine: voxel to world millimetres (RAS+), float64 `[4, 4]`, of this grid.
        native_ranges: for each channel, the intensities in the data's own unit (HU for CT) that became 0 and 1; NaN if
            the way there is not affine.
        original_spacing: sides of a voxel in millimetres before preprocessing, in the file's axis order.
        inner: first voxel and end, an axis, of the part of the grid that lies inside crop and file; beside it is
            padding. None: all of it.
        lost: a line per class whose label voxels the way to this grid removed, wholly or for the most part.
        off_scale: a line per channel whose intensities do not fit the window that they are scaled by.
        prepared: what the network's own pipeline made beside it; None: it was prepared by `Preprocess`.
    """

    ref: CaseRef
    image: "Tensor"
    label: "Tensor"
    spacing: Spacing
    affine: npt.NDArray[np.float64]
    native_ranges: tuple[Window, ...]
    original_spacing: Spacing
    inner: Box | None = None
    lost: tuple[str, ...] = ()
    off_scale: tuple[str, ...] = ()
    prepared: Beside | None = None

    @property
    def windows(self) -> list[Window | None]:
        """The native ranges, None where the way there is not affine."""
        return [None if math.isnan(low) else (low, high) for low, high in self.native_ranges]


@dataclass(frozen=True, kw_only=True)
class NativeCase:
    """One patient volume as its files hold it, on its own grid and in its own unit; label and affine as in a `Case`.

    Attributes:
        image: float32 `[C, H, W, D]` in the data's own unit (HU for CT), axes as in the file.
        spacing: sides of a voxel in millimetres, in the file's axis order.
        source: place of the image, for errors.
        stated: the sides as the file's header writes them, to the last digit, on which a toolchain's rounding of shapes
            may depend; None: as `spacing`.
        values: reads the label map's own numbers `[1, H, W, D]`; None: they are its classes.
    """

    ref: CaseRef
    image: "Tensor"
    label: "Tensor"
    affine: npt.NDArray[np.float64]
    spacing: Spacing
    source: str
    stated: Spacing | None = None
    values: "Callable[[], Tensor] | None" = None

    def file_numbers(self) -> "Tensor":
        """Returns the label map with the numbers of its file, before they were classes or codes of regions."""
        return self.label if self.values is None else self.values()


@dataclass(frozen=True, kw_only=True)
class FileLabel:
    """A case's label map on the grid of its file, for scores there; fields as in a `NativeCase`."""

    label: "Tensor"
    affine: npt.NDArray[np.float64]
    spacing: Spacing
