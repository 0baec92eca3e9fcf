"""Measures distances between a clean and an attacked volume: SSIM, PSNR and norms, over the volume and in the body.

Volumes are `[H, W, D]`, D across axial slices, or `[C, H, W, D]` of several channels, with intensities in [0, 1]. All
functions of a pair raise a UserError where its shapes differ.
"""

import math

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import UserError
from freqbench.metrics.volumes import Scores, Volume, channels_of, require_same_shape
from freqbench.ops.body import Mask, body_of

SSIM_WINDOW = 7  # skimage's default, voxels a side, in the axial plane

Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def body_mask(clean: Volume) -> Mask:
    """The patient without the air around: where intensity lies above the window's floor, cleaned up.

    Voxels above 0, of several channels those where any of them is, as one may be black where tissue shows in another;
    their largest connected component with its holes filled (`freqbench.ops.body`).

    Returns:
        bool `[H, W, D]`; all False where no voxel is above 0.

    Raises:
        UserError: not one volume.
    """
    return body_of((channels_of(clean) > 0).any(dim=0).cpu().numpy())


def ssim(clean: Volume, adversarial: Volume) -> float:
    """Structural similarity as the papers' code has it: skimage on intensities x 255, mean over axial slices.

    7 x 7 uniform window, sample covariance, data range 255, the 3-voxel border of a slice left out of its mean.
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 13(4), 2004. Of several channels each is an image of its own: the mean over channels.

    Returns:
        -1 to 1; 1 for identical volumes.

    Raises:
        UserError: a slice is smaller than the 7 x 7 window.
    """
    return _ssim_with_map(_pair(clean, adversarial))[0]


def psnr(clean: Volume, adversarial: Volume) -> float:
    """Peak signal-to-noise ratio in decibels, `10 log10(255^2 / MSE)`, by skimage on intensities x 255.

    Identical volumes give positive infinity, which is what the formula says and what a float column stores. The MSE is
    that over all voxels of all channels: a mean over channels would be infinite wherever one of them is left alone.
    """
    return _psnr(_pair(clean, adversarial))


def linf(clean: Volume, adversarial: Volume) -> float:
    """Largest absolute difference of a voxel on the [0, 1] scale, in any channel."""
    return float(np.abs(_difference(_pair(clean, adversarial))).max())


def l2(clean: Volume, adversarial: Volume) -> float:
    """Euclidean norm of the difference over all voxels of all channels, on the [0, 1] scale."""
    return _norm(_difference(_pair(clean, adversarial)))


def _norm(values: npt.NDArray[np.float64]) -> float:
    """The Euclidean norm; `np.linalg.norm` would add up by BLAS, whose last bits depend on its number of threads."""
    return math.sqrt(float(np.square(values).sum()))


def image_scores(clean: Volume, adversarial: Volume, body: Mask | None = None) -> Scores:
    """All distances of this file in one pass; `body` is `body_mask(clean)`, computed here if None.

    `ssim_body` is the mean of skimage's SSIM map over the body's voxels (the map covers the slices' borders too, by
    mirroring), of several channels the mean over channels; `l2_body` is the norm of the difference there.

    Returns:
        Columns `ssim`, `ssim_body`, `psnr`, `linf`, `l2`, `l2_body`; NaN with a reason where slices are smaller than
        SSIM's window or there is no body.
    """
    pair = _pair(clean, adversarial)
    inside = body_mask(clean) if body is None else body
    require_same_shape(inside.shape, pair[0].shape[1:])
    difference = _difference(pair)
    values = dict.fromkeys(("ssim", "ssim_body", "psnr", "linf", "l2", "l2_body"), math.nan)
    values |= {"psnr": _psnr(pair), "linf": float(np.abs(difference).max()), "l2": _norm(difference)}
    reasons = {}
    if inside.any():
        values["l2_body"] = _norm(difference[:, inside])
    else:
        reasons = dict.fromkeys(("ssim_body", "l2_body"), NO_BODY)
    try:
        values["ssim"], similarity = _ssim_with_map(pair)
        if inside.any():
            values["ssim_body"] = _mean([float(channel[inside].mean(dtype=np.float64)) for channel in similarity])
    except UserError as error:
        reasons = dict.fromkeys(("ssim", "ssim_body"), str(error)) | reasons
    return Scores(values=values, reasons=reasons)


NO_BODY = "no body: the clean volume has no intensity above 0"


def _pair(clean: Volume, adversarial: Volume) -> Pair:
    """Both as `[C, H, W, D]`."""
    first, second = channels_of(clean).cpu().numpy(), channels_of(adversarial).cpu().numpy()
    require_same_shape(first.shape, second.shape)
    return first.astype(np.float32, copy=False), second.astype(np.float32, copy=False)


def _difference(pair: Pair) -> npt.NDArray[np.float64]:
    return pair[1].astype(np.float64) - pair[0]


def _psnr(pair: Pair) -> float:
    from skimage.metrics import peak_signal_noise_ratio

    if np.array_equal(*pair):
        return math.inf
    return float(peak_signal_noise_ratio(pair[0] * 255, pair[1] * 255, data_range=255))


def _ssim_with_map(pair: Pair) -> tuple[float, list[npt.NDArray[np.float32]]]:
    """The mean over channels, and the map `[H, W, D]` of each."""
    from skimage.metrics import structural_similarity

    height, width = pair[0].shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise UserError(
            f"ssim: expected slices of at least {SSIM_WINDOW} x {SSIM_WINDOW} voxels, got {height} x {width}"
        )
    means, maps = [], []
    for clean, adversarial in zip(*pair, strict=True):
        mean, similarity = structural_similarity(
            clean * 255, adversarial * 255, channel_axis=2, data_range=255, full=True
        )
        means.append(float(mean))
        maps.append(similarity)
    return _mean(means), maps


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)  # not fmean, which rounds otherwise
