"""From raw voxels to the grid that networks see: orientation, spacing, intensity, crop, by MONAI's transforms.

The order is that of the papers' validation pipelines.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.errors import DataError
from freqbench.types import Shape, Spacing

Intensity = str | dict[str, float | tuple[float, float]]

DEFAULTS = {"percentile": (0.5, 99.5), "minmax": (0.0, 100.0), "zscore": (-3.0, 3.0)}


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Which native intensities become 0 and 1; what lies outside is clipped.

    Attributes:
        kind: what `low` and `high` are: native intensities, percentiles of the volume, or standard deviations from its
            mean.
        low: becomes 0.
        high: becomes 1.
    """

    kind: Literal["window", "percentile", "zscore"]
    low: float
    high: float

    def range_of(self, image: Tensor) -> tuple[float, float]:
        """The native intensities that become 0 and 1 in this volume (any shape)."""
        if self.kind == "window":
            return self.low, self.high
        voxels = image.numpy()
        if self.kind == "percentile":
            low, high = np.percentile(voxels, [self.low, self.high])
            return float(low), float(high)
        mean, sd = float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))
        return mean + self.low * sd, mean + self.high * sd


def parse_intensity(value: object) -> Scaling:
    """The scaling that `intensity` of a job file asks for.

    `percentile` (0.5 to 99.5 of the volume), `minmax`, `zscore` (the mean -+ 3 standard deviations), or with numbers
    `{window: [min, max]}`, `{percentile: [low, high]}`, `{zscore: n}` (the mean -+ n standard deviations).

    Raises:
        ValueError: anything else; one line.
    """
    if isinstance(value, str) and value in DEFAULTS:
        return _scaling(value, *DEFAULTS[value])
    if isinstance(value, dict) and len(value) == 1:
        kind, numbers = next(iter(value.items()))
        if kind == "zscore" and _is_number(numbers):
            return _scaling(kind, -numbers, numbers)
        pair = isinstance(numbers, list | tuple) and len(numbers) == 2 and all(_is_number(n) for n in numbers)
        if kind in ("window", "percentile") and pair:
            return _scaling(kind, *numbers)
    raise ValueError(
        "expected percentile, minmax, zscore, {window: [min, max]}, {percentile: [low, high]} or {zscore: n}, "
        f"got {value!r}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _scaling(kind: str, low: float, high: float) -> Scaling:
    if kind == "window" and low < high:
        return Scaling(kind="window", low=float(low), high=float(high))
    if kind == "zscore" and low < high:
        return Scaling(kind="zscore", low=float(low), high=float(high))
    if kind in ("percentile", "minmax") and 0 <= low < high <= 100:
        return Scaling(kind="percentile", low=float(low), high=float(high))
    limits = " within 0..100" if kind == "percentile" else ""
    if kind == "zscore":
        raise ValueError(f"expected a positive number of standard deviations, got {high:g}")
    raise ValueError(f"expected the lower bound of {kind} below the upper{limits}, got [{low:g}, {high:g}]")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One case on the preprocessed grid; the fields are those of `types.Case`."""

    image: Tensor
    label: Tensor
    spacing: Spacing
    affine: npt.NDArray[np.float64]
    native_range: tuple[float, float]


def prepare(
    image: npt.NDArray[np.float32],
    label: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    *,
    spacing: Spacing | None,
    scaling: Scaling,
    crop_foreground: bool,
    where: Path,
) -> Prepared:
    """Orientation RAS; spacing (image bilinear, label nearest); intensity to [0, 1]; crop to image > 0.

    Args:
        image: raw intensities `[H, W, D]` in the file's axis order.
        label: classes on the same grid.
        affine: voxel to world millimetres (RAS+) of that grid.
        spacing: millimetres a voxel of the new grid; None keeps the file's.
        scaling: native intensities to [0, 1].
        crop_foreground: whether to cut to the box of voxels above 0 after scaling.
        where: the image's file, for errors.

    Raises:
        DataError: the scaling finds no contrast, or no foreground is left.
    """
    from monai.data import MetaTensor
    from monai.transforms import CropForegroundd, Orientationd, ScaleIntensityRanged, Spacingd

    keys = ("image", "label")
    grid = torch.from_numpy(affine)
    case = {
        "image": MetaTensor(torch.from_numpy(np.ascontiguousarray(image))[None], affine=grid),
        "label": MetaTensor(torch.from_numpy(np.ascontiguousarray(label))[None], affine=grid),
    }
    case = Orientationd(keys, axcodes="RAS", labels=None)(case)
    if spacing is not None:
        case = Spacingd(keys, pixdim=spacing, mode=("bilinear", "nearest"))(case)
    low, high = scaling.range_of(case["image"].as_tensor())
    if not low < high:
        raise DataError(
            f"{where}: expected contrast between the {scaling.kind} bounds {scaling.low:g} and {scaling.high:g}, "
            f"got the intensity {low:g} at both: widen `intensity` or use minmax"
        )
    case = ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)(case)
    if not bool((case["image"] > 0).any()):
        raise DataError(f"{where}: expected intensities above {low:g}, got none: widen the window of `intensity`")
    if crop_foreground:
        case = CropForegroundd(keys, source_key="image")(case)
    h, w, d = (float(step) for step in case["image"].pixdim)
    return Prepared(
        image=case["image"].as_tensor().to(torch.float32).contiguous(),
        label=case["label"].as_tensor().to(torch.uint8).contiguous(),
        spacing=(h, w, d),
        affine=case["image"].affine.numpy().astype(np.float64),
        native_range=(low, high),
    )


def prepared_shape(shape: Shape, affine: npt.NDArray[np.float64], spacing: Spacing | None) -> Shape:
    """Voxels of the grid that `prepare` makes, before the crop: from the header, exact if the affine has no shear."""
    from nibabel.orientations import io_orientation

    axes = [int(axis) for axis in np.argsort(io_orientation(affine)[:, 0])]
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = [shape[axis] for axis in axes]
    if spacing is not None:
        sizes = [
            int(np.round((shape[axis] - 1) * steps[axis] / new + 1)) for axis, new in zip(axes, spacing, strict=True)
        ]
    return sizes[0], sizes[1], sizes[2]
