"""Reads the inputs of every metric: one volume as an array or tensor, with channels or axes of length one in front."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.ops.voxels import counted

Volume = Tensor | npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Values by record column; one that could not be computed is NaN and has its reason."""

    values: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)


def as_tensor(volume: Volume) -> Tensor:
    """Returns the tensor `[H, W, D]` of a volume, on its device; refuses leading axes of length above 1."""
    tensor = _one_volume(volume, 3, "[H, W, D]")
    return tensor.reshape(tensor.shape[-3:])


def channels_of(volume: Volume) -> Tensor:
    """Returns the tensor `[C, H, W, D]` of a volume `[H, W, D]` or `[C, H, W, D]`; raises as `as_tensor`."""
    tensor = _one_volume(volume, 4, "[H, W, D] or [C, H, W, D]")
    return tensor.reshape(-1, *tensor.shape[-3:])


def pair_of(first: Volume, second: Volume) -> tuple[Tensor, Tensor]:
    """Returns `channels_of` two volumes, `first` and `second`; raises UserError if their shapes differ."""
    pair = channels_of(first), channels_of(second)
    require_same_shape(pair[0].shape, pair[1].shape)
    return pair


def _one_volume(volume: Volume, axes: int, wanted: str) -> Tensor:
    tensor = torch.as_tensor(volume).detach()
    shape = tuple(tensor.shape)
    if len(shape) < 3 or any(size != 1 for size in shape[:-axes]) or 0 in shape:
        raise UserError(f"expected one volume {wanted}, leading axes of length 1 allowed, got {shape}: pass one case")
    return tensor


def require_same_shape(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    """Refuses a pair of volumes with different shapes, `first` and `second`."""
    if tuple(first) != tuple(second):
        raise UserError(f"expected two volumes of one shape, got {tuple(first)} and {tuple(second)}: use the same grid")


def require_classes(volume: Tensor, num_classes: int) -> None:
    """Refuses a label map, `volume`, with a value outside 0 to `num_classes - 1`, or with floating-point labels."""
    if volume.is_floating_point() or volume.is_complex():
        raise UserError(f"expected an integer label map, got {volume.dtype}: take the argmax, or cast")
    if not volume.numel():  # no voxel counts
        return
    low = int(volume.min())
    high = int(volume.max())
    if low < 0 or high >= num_classes:
        expected = f"classes 0 to {num_classes - 1}"
        raise UserError(f"expected {expected}, got {low} to {high}: map the labels, or name all classes")


def class_maps(pred: Volume, label: Volume, num_classes: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns two label maps, `pred` and `label`, as uint8 `[H, W, D]`; refuses shapes or values that do not fit in 0
    to `num_classes - 1`, and over 256 classes. Voxels that do not count (`freqbench.ops.voxels`) are background in
    both."""
    if not 1 <= num_classes <= 256:
        raise UserError(f"expected 1 to 256 classes, got {num_classes}")
    maps = as_tensor(pred), as_tensor(label)
    require_same_shape(maps[0].shape, maps[1].shape)
    if (counts := counted(maps[1], num_classes)) is not None:
        maps = torch.where(counts.to(maps[0].device), maps[0], 0), torch.where(counts, maps[1], 0)
    for classes in maps:
        require_classes(classes, num_classes)
    first, second = (classes.cpu().numpy().astype(np.uint8, copy=False) for classes in maps)
    return first, second


def borders(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Returns the voxels of a map, `labels`, with a neighbour along an axis of another label: bool, in its shape."""
    near = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        along = np.moveaxis(labels, axis, 0)
        view = np.moveaxis(near, axis, 0)
        differs = along[1:] != along[:-1]
        view[1:] |= differs
        view[:-1] |= differs
    return near


def lengths(spacing: Sequence[float] | None) -> npt.NDArray[np.float64]:
    """Returns a voxel's sides as an array `[3]`, ones for a `spacing` of None; refuses all but positive numbers."""
    sides = np.ones(3) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if sides.shape != (3,) or not np.isfinite(sides).all() or (sides <= 0).any():
        raise UserError(f"expected a spacing of three positive numbers, got {spacing}")
    return sides
