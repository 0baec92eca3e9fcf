"""From a space back to the file's own grid and unit, where another space can be reached from."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.core.input_space import Preprocess
from freqbench.core.types import Case, NativeCase
from freqbench.data.preprocess import prepare

Volume = npt.NDArray[np.float32]

# Of the range: less is rounding of the affines, which lets the border leak one voxel out and would lift air to `low`.
LEAST = 1e-5


def attacked_native(native: NativeCase, case: Case, adversarial: Tensor) -> NativeCase:
    """The volume of the file with the perturbation carried back to its grid and unit.

    The perturbation `(adversarial - case.image) * (high - low)` of each channel is interpolated trilinearly at the
    native voxels, 0 outside the case's grid, and added. Where a native intensity was clipped it is added to the bound,
    so that `prepare` finds it again; where it would lead further out, or in by less than LEAST of the range, the voxel
    stays as it is, as where it is 0.

    Args:
        native: what the file holds.
        case: the same case in the space of the attack.
        adversarial: `[C, H, W, D]` on the grid of `case`, in [0, 1].

    Returns:
        `native` with another image; `prepare(result, preprocess, clean=native)` brings it into any space.
    """
    if adversarial.shape != case.image.shape:
        raise ValueError(f"expected the case's shape {tuple(case.image.shape)}, got {tuple(adversarial.shape)}")
    to_case = np.linalg.inv(case.affine) @ native.affine
    attacked = torch.empty(native.image.shape)
    for channel, (low, high) in enumerate(case.native_ranges):
        delta = (adversarial[channel] - case.image[channel]).mul_(high - low).numpy()
        attacked[channel] = torch.from_numpy(_added(native.image[channel].numpy(), delta, to_case, low, high))
    return replace(native, image=attacked)


def resampling_error(native: NativeCase, attacked: NativeCase, adversarial: Tensor, space: Preprocess) -> float:
    """How far the attacked native volume, prepared in the space of its attack again, is from what was attacked there.

    Args:
        native: what the file holds.
        attacked: from `attacked_native`.
        adversarial: what it was made from.
        space: of the attack.

    Returns:
        Root mean square over all voxels and channels on the [0, 1] scale. 0 to rounding where the space keeps the
        file's grid; what was added to voxels that `pad_to` made is lost and counts too.
    """
    again = prepare(attacked, space, clean=native).image
    return float((again - adversarial).square_().mean(dtype=torch.float64).sqrt())


def _added(image: Volume, delta: Volume, to_delta: npt.NDArray[np.float64], low: float, high: float) -> Volume:
    """One channel `[H, W, D]` with the perturbation, whose grid `to_delta` leads to from voxels of the image."""
    from scipy.ndimage import affine_transform

    change: Volume = affine_transform(
        delta, to_delta[:3, :3], to_delta[:3, 3], image.shape, np.float32, order=1, mode="grid-constant"
    )
    moved = np.clip(image, np.float32(low), np.float32(high))
    moved += change
    least = LEAST * (high - low)
    stays = (change == 0) | ((image > high) & (change > -least)) | ((image < low) & (change < least))
    np.copyto(moved, image, where=stays)
    return moved
