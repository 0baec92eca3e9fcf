"""Resamples as nnU-Net does: cubic for images, class by class for labels, edges aligned; along a coarse axis the
nearest slice. Isensee et al., Nature Methods 2021, arXiv:1904.08128 (and arXiv:1809.10486)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from freqbench.core.types import Shape, triple

if TYPE_CHECKING:
    from torch import Tensor

ANISOTROPY = 3.0  # ratio of the coarsest to the finest spacing above which slices are resampled in their plane
Volume = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> Shape:
    """Returns the voxels of the new grid: `round(spacing / wanted * shape)`, at least one per axis."""
    return triple(max(1, round(old / new * size)) for size, old, new in zip(shape, spacing, wanted, strict=True))


def resampled_affine(affine: Affine, shape: Sequence[int], new: Sequence[int]) -> Affine:
    """Returns voxel to world `[4, 4]` of a grid of `new` voxels an axis with the same outer edges as that of `shape`
    voxels with `affine`: index j lies at (j + 1/2) old/new - 1/2."""
    scale = np.array(shape, np.float64) / np.array(new, np.float64)
    to_old = np.diag([*scale, 1.0])
    to_old[:3, 3] = (scale - 1) / 2
    return affine @ to_old


def coarse_axis(spacing: Sequence[float], wanted: Sequence[float]) -> int | None:
    """Returns the coarsest axis of the old `spacing`, else of the `wanted` one, if anisotropic; None if two are, or
    none."""
    for steps in (list(spacing), list(wanted)):
        if max(steps) / min(steps) > ANISOTROPY:
            return steps.index(max(steps)) if steps.count(max(steps)) == 1 else None
    return None


def resample_image(image: "Tensor", shape: Shape, coarse: int | None) -> "Tensor":
    """Interpolates each channel of an `image` cubically, clipped to [0, 1]: from float32 `[C, H, W, D]` in [0, 1] to
    `[C, *shape]`; along the `coarse` axis, if there is one, the nearest slice.

    **Differs from nnU-Net v2**, which clips overshoots to the range of the volume or slice.
    """
    import torch

    channels = np.stack([_resize(channel, shape, coarse, order=3) for channel in image.numpy()])
    return torch.from_numpy(channels.clip(0, 1, out=channels))


def resample_label(label: "Tensor", shape: Shape, coarse: int | None) -> "Tensor":
    """Returns the class of a `label` `[1, H, W, D]` with the largest linearly interpolated indicator, the higher on a
    tie: uint8 `[1, *shape]`; along the `coarse` axis, if there is one, the nearest slice.

    **Differs from nnU-Net**: where three classes meet and none reaches 1/2, it writes background.
    """
    import torch

    old = label[0].numpy()
    new = np.zeros(shape, np.uint8)
    share = np.zeros(shape, np.float32)
    for index in np.unique(old):
        indicator = _resize((old == index).astype(np.float32), shape, coarse, order=1)
        new[indicator >= share] = index
        np.maximum(share, indicator, out=share)
    return torch.from_numpy(new)[None]


def _resize(volume: Volume, shape: Shape, coarse: int | None, order: int) -> Volume:
    if volume.shape == shape:
        return volume
    if coarse is None:
        return _interpolate(volume, shape, order)
    slices = np.moveaxis(volume, coarse, 0)
    count = shape[coarse]
    plane = [size for axis, size in enumerate(shape) if axis != coarse]
    # The old slice that holds the middle of the new one, computed in integers: ties must not depend on rounding.
    taken, place = np.unique((2 * np.arange(count) + 1) * len(slices) // (2 * count), return_inverse=True)
    return np.moveaxis(np.stack([_interpolate(slices[z], plane, order) for z in taken])[place], 0, coarse)


def _interpolate(array: Volume, shape: Sequence[int], order: int) -> Volume:
    """Interpolates with splines of an order, edges aligned, the border's values beyond it."""
    from skimage.transform import resize

    return resize(array, shape, order=order, mode="edge", anti_aliasing=False, clip=False)
