"""From raw voxels to the grid that networks see: orientation, spacing, intensity, crop, by MONAI's transforms.

The order is that of the papers' validation pipelines.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.errors import DataError
from freqbench.space import Preprocess, parse_intensity
from freqbench.types import Case, NativeCase, Shape, Spacing


def prepare(native: NativeCase, preprocess: Preprocess, clean: NativeCase | None = None) -> Case:
    """A case in the space of `preprocess`: image bilinear, label nearest.

    Args:
        native: image and label on their own grid.
        preprocess: see `Preprocess`.
        clean: where `native` is an attacked volume, the case that it was made from: intensity bounds and crop are
            found on that, so that the two differ by the perturbation alone.

    Raises:
        DataError: the scaling finds no contrast, or no foreground is left.
    """
    from monai.data import MetaTensor
    from monai.transforms import CropForegroundd, Orientationd, ResizeWithPadOrCropd, Spacingd, SpatialPadd

    keys = ("image", "label", "clean") if clean else ("image", "label")
    modes = ("bilinear", "nearest", "bilinear")[: len(keys)]
    images = [key for key in keys if key != "label"]
    volumes = (native.image, native.label, (clean or native).image)
    case: dict[str, Any] = {
        key: MetaTensor(volume.contiguous(), affine=torch.from_numpy(native.affine))
        for key, volume in zip(keys, volumes, strict=False)
    }
    case = Orientationd(keys, axcodes="RAS", labels=None)(case)
    if preprocess.spacing is not None:
        case = Spacingd(keys, pixdim=preprocess.spacing, mode=modes)(case)
    # Before `size`, as percentiles of padding would be none of the volume.
    ranges = _ranges(case[images[-1]].as_tensor(), preprocess, native.source)
    if preprocess.size is not None:
        case = ResizeWithPadOrCropd(keys, preprocess.size)(case)
    for key in images:
        case[key] = _scaled(case[key], ranges)
    if not bool((case[images[-1]] > 0).any()):
        raise DataError(
            f"{native.source}: expected intensities above {ranges[0][0]:g}, got none: widen the window of `intensity`"
        )
    if preprocess.crop_foreground:
        case = CropForegroundd(keys, source_key=images[-1])(case)
    if preprocess.pad_to is not None:
        case = SpatialPadd(keys, preprocess.pad_to)(case)
    h, w, d = (float(step) for step in case["image"].pixdim)
    return Case(
        ref=native.ref,
        image=case["image"].as_tensor().to(torch.float32).contiguous(),
        label=case["label"].as_tensor().to(torch.uint8).contiguous(),
        spacing=(h, w, d),
        affine=case["image"].affine.numpy().astype(np.float64),
        native_ranges=ranges,
        original_spacing=native.spacing,
    )


def _ranges(image: Tensor, preprocess: Preprocess, source: str) -> tuple[tuple[float, float], ...]:
    """The native intensities of each channel that become 0 and 1."""
    scaling = parse_intensity(preprocess.intensity)
    ranges = tuple(scaling.range_of(channel) for channel in image)
    for low, high in ranges:
        if not low < high:
            raise DataError(
                f"{source}: expected contrast between the {scaling.kind} bounds {scaling.low:g} and {scaling.high:g}, "
                f"got the intensity {low:g} at both: widen `intensity` or use minmax"
            )
    return ranges


def _scaled(image: Any, ranges: tuple[tuple[float, float], ...]) -> Any:
    """Each channel from its range to [0, 1], clipped."""
    from monai.transforms import ScaleIntensityRange

    for index, (low, high) in enumerate(ranges):
        image[index] = ScaleIntensityRange(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)(image[index])
    return image


def prepared_shape(shape: Shape, affine: npt.NDArray[np.float64], preprocess: Preprocess) -> Shape:
    """Voxels of the grid that `prepare` makes, before the crop: from the header, exact if the affine has no shear."""
    from nibabel.orientations import io_orientation

    if preprocess.size is not None:
        return preprocess.size
    axes = [int(axis) for axis in np.argsort(io_orientation(affine)[:, 0])]
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = [shape[axis] for axis in axes]
    spacing: Spacing | None = preprocess.spacing
    if spacing is not None:
        sizes = [
            int(np.round((shape[axis] - 1) * steps[axis] / new + 1)) for axis, new in zip(axes, spacing, strict=True)
        ]
    h, w, d = (max(size, least) for size, least in zip(sizes, preprocess.pad_to or (1, 1, 1), strict=True))
    return h, w, d
