"""Defines the space that a model sees: its grid, and the native intensities that become 0 and 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt, field_validator

from freqbench.core.config import Strict
from freqbench.core.limits import VOXELS, is_number, require
from freqbench.core.types import triple

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Intensity = str | dict[str, float | tuple[float, float]]

RAS_LETTERS = {"R": "H", "L": "-H", "A": "W", "P": "-W", "S": "D", "I": "-D"}  # the volume's axis in each direction
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Native intensities, percentiles or deviations, by `kind`, that become 0 (`low`) and 1 (`high`)."""

    kind: Literal["window", "percentile", "zscore"]
    low: float
    high: float

    def range_of(self, image: "Tensor") -> tuple[float, float]:
        """Returns the native intensities that become 0 and 1 in this volume (any shape)."""
        if self.kind == "window":
            return self.low, self.high
        voxels = image.numpy()
        if self.kind == "percentile":
            low, high = np.percentile(voxels, [self.low, self.high])
            return float(low), float(high)
        mean = float(voxels.mean(dtype=np.float64))
        sd = float(voxels.std(dtype=np.float64))
        return mean + self.low * sd, mean + self.high * sd


DEFAULTS = {
    "percentile": Scaling(kind="percentile", low=0.5, high=99.5),
    "minmax": Scaling(kind="percentile", low=0.0, high=100.0),
    "zscore": Scaling(kind="zscore", low=-3.0, high=3.0),
}


def parse_intensity(value: object) -> Scaling:
    """Returns the scaling that `intensity` of a job file describes; raises ValueError for anything else. `percentile`
    (0.5 to 99.5 of the volume), `minmax`, `zscore` (the mean -+ 3 standard deviations), or with numbers `{window: [min,
    max]}`, `{percentile: [low, high]}`, `{zscore: n}` (the mean -+ n standard deviations)."""
    if isinstance(value, str) and value in DEFAULTS:
        return DEFAULTS[value]
    kind: Any = None
    numbers: Any = None
    if isinstance(value, dict) and len(value) == 1:
        ((kind, numbers),) = value.items()
    if kind == "zscore" and is_number(numbers):
        if numbers <= 0:
            raise ValueError(f"expected a positive number of standard deviations, got {numbers:g}")
        return Scaling(kind=kind, low=-float(numbers), high=float(numbers))
    is_pair = isinstance(numbers, list | tuple) and len(numbers) == 2 and all(map(is_number, numbers))
    if kind in ("window", "percentile") and is_pair:
        low, high = numbers
        if not low < high or (kind == "percentile" and not 0 <= low < high <= 100):
            limits = " within 0..100" if kind == "percentile" else ""
            raise ValueError(f"expected the lower bound of {kind} below the upper{limits}, got [{low:g}, {high:g}]")
        return Scaling(kind=kind, low=float(low), high=float(high))
    raise ValueError(
        "expected percentile, minmax, zscore, {window: [min, max]}, {percentile: [low, high]} or {zscore: n}, "
        f"got {value!r}"
    )


class Preprocess(Strict):
    """Preprocessing from a native volume to the grid and the intensities of a space.

    Steps are in the order of the papers' pipelines: orientation RAS; spacing; `size`; intensity to [0, 1]; crop to
    foreground; `pad_to`. With nnU-Net's resampling: orientation RAS; crop to voxels that are not 0; intensity; spacing;
    `size`; `pad_to`.

    Attributes:
        spacing: sides in millimetres of the voxels to resample to; None keeps each file's.
        intensity: what becomes [0, 1]: `percentile` (0.5 to 99.5 of the volume, which suits MR), `minmax`, `zscore`,
            `{window: [-175, 250]}` (the papers' CT), `{percentile: [low, high]}` or `{zscore: deviations}`.
        crop_foreground: crop to the box of voxels above 0 after scaling; nnU-Net's resampling has its own crop.
        size: voxels that the grid is cropped or padded to, about its centre, with 0 in the file's unit (with nnU-Net's
            resampling, where this step comes later, with 0 after scaling).
        pad_to: least final voxels of each axis: 0 is added on both sides.
        resampling: `linear`: MONAI's; `nnunet`: nnU-Net's of its first version, cubic, with its overshoots, as the
            papers' jobs have it. A network of nnU-Net v2 has its own pipeline.
        axes: the axes of `spacing`, `size` and `pad_to`: right, anterior and superior, as checkpoints state it.
    """

    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None
    intensity: Intensity = "percentile"
    crop_foreground: bool = True
    size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    pad_to: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    resampling: Literal["linear", "nnunet"] = "linear"
    axes: Literal["RAS"] = "RAS"

    @field_validator("size", "pad_to")
    @classmethod
    def _fits_memory(cls, given: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        require(math.prod(given or ()), VOXELS, "voxels of a volume")
        return given

    @field_validator("intensity", mode="before")
    @classmethod
    def _known_intensity(cls, value: object) -> object:
        parse_intensity(value)
        return value

    @property
    def is_nnunets(self) -> bool:
        """True if the grid is made as nnU-Net makes it."""
        return self.resampling != "linear"

    def identity(self) -> dict[str, Any]:
        """Returns all that changes a `Case`, for digests; keys that were added later are omitted at their defaults."""
        scaling = parse_intensity(self.intensity)
        intensity = [scaling.kind, scaling.low, scaling.high]
        settings = {name: getattr(self, name) for name in ("size", "pad_to", "resampling")}
        later = {name: value for name, value in settings.items() if value != Preprocess.model_fields[name].default}
        return {"spacing": self.spacing, "intensity": intensity, "crop_foreground": self.crop_foreground, **later}


def file_codes(affine: npt.NDArray[np.float64]) -> str:
    """Returns the directions in which the axes of a file's array increase, as in LPS, by its `affine` `[4, 4]`
    (RAS+)."""
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(affine))


def file_axes(codes: str) -> tuple[int, int, int]:
    """Returns, for each of the axes right, anterior and superior, the file's axis along it.

    `codes` are the directions in which the file's axes increase.

    >>> file_axes("PSR")
    (2, 0, 1)
    """
    return triple(max(map(codes.find, pair)) for pair in ("RL", "AP", "SI"))  # -1: the axis runs the other way


def turning(given: str, wanted: str) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Returns, for axes towards `wanted`, the axes towards `given` along them, and those of `wanted` that run against.

    >>> turning("LPS", "SAR")
    ((2, 1, 0), (1, 2))
    """
    order = file_axes(given)
    target = file_axes(wanted)
    along = triple(order[target.index(axis)] for axis in range(3))
    return along, tuple(axis for axis in range(3) if given[along[axis]] != wanted[axis])


def orient(volume: "Tensor", given: str, wanted: str) -> "Tensor":
    """Returns a volume `[C, *axes towards given]` with its axes towards `wanted`."""
    order, against = turning(given, wanted)
    turned = volume.permute(0, *(1 + axis for axis in order))
    return turned.flip([1 + axis for axis in against])


def turned_affine(affine: npt.NDArray[np.float64], shape: Sequence[int], old: str, new: str) -> npt.NDArray[np.float64]:
    """Returns voxel to world of `orient`, for axes towards `new`; `affine` and `shape` are those of the axes towards
    `old`."""
    order, against = turning(old, new)
    to_given = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, along in enumerate(order):
        to_given[along, axis] = -1 if axis in against else 1
        to_given[along, 3] = shape[along] - 1 if axis in against else 0
    return affine @ to_given


def ras_order(values: tuple[T, T, T], codes: str) -> tuple[T, T, T]:
    """Returns values of a file's axes, which run as `codes` say (LPS, ...), in the order right, anterior, superior."""
    return triple(values[axis] for axis in file_axes(codes))
