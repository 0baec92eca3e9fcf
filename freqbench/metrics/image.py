"""Measures distances between a clean and an attacked volume: similarity, norms, energy by frequency, seams of windows.
Volumes are `[H, W, D]`, D across axial slices, or `[C, H, W, D]`, with intensities in [0, 1]. All functions of a
pair raise UserError if its shapes differ."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from freqbench.core.errors import UserError
from freqbench.metrics.volumes import Scores, Volume, channels_of, pair_of, require_same_shape
from freqbench.ops.dct import BANDS, band_magnitude
from freqbench.ops.voxels import Mask, body_of

SSIM_WINDOW = 7  # skimage's default, voxels per side, in the axial plane
ENERGY_BLOCK = 8  # voxels per side: blocks of 16 and 32, as in the frequency attacks, consist of whole ones
NO_BODY = "no body: the clean volume has no intensity above 0"

Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def body_mask(clean: Volume) -> Mask:
    """Returns the patient without the surrounding air, bool `[H, W, D]`: the voxels of the volume `clean` above the
    window's floor, cleaned up. The mask is the largest connected component, with its holes filled
    (`freqbench.ops.voxels`), of the voxels above 0 in any channel, as tissue may be black in one of them. All False if
    no voxel is above 0."""
    return body_of((channels_of(clean) > 0).any(dim=0).cpu().numpy())


def ssim(clean: Volume, adversarial: Volume) -> float:
    """Returns structural similarity of `clean` and `adversarial` as in the papers' code, -1 to 1: skimage on
    intensities x 255, by axial slice. It has a 7 x 7 uniform window, sample covariance and data range 255, leaves the
    3-voxel border of a slice out of its mean, and averages over slices. Z. Wang, A. C. Bovik, H. R. Sheikh, E. P.
    Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE TIP 13(4), 2004.
    Several channels are averaged. Raises UserError for a slice smaller than the window."""
    return _ssim_with_map(_pair(clean, adversarial))[0]


def psnr(clean: Volume, adversarial: Volume) -> float:
    """Returns the peak signal-to-noise ratio of `adversarial` to `clean` in dB, `10 log10(255^2 / MSE)`, by skimage;
    infinity for equal volumes. The MSE is over all voxels of all channels: a mean over channels would be infinite if
    one were unchanged."""
    return _psnr(_pair(clean, adversarial))


def linf(clean: Volume, adversarial: Volume) -> float:
    """Returns the largest absolute difference of a voxel of `clean` and `adversarial`, on the [0, 1] scale, in any
    channel."""
    return float(np.abs(_difference(_pair(clean, adversarial))).max())


def l2(clean: Volume, adversarial: Volume) -> float:
    """Returns the Euclidean norm of the difference of `clean` and `adversarial` over all voxels of all channels, on the
    [0, 1] scale."""
    return _norm(_difference(_pair(clean, adversarial)))


def image_scores(clean: Volume, adversarial: Volume, body: Mask | None = None) -> Scores:
    """Returns `ssim`, `ssim_body`, `psnr`, `linf`, `l2`, `l2_body` of `clean` and `adversarial` in one pass; `body` is
    `body_mask(clean)`, made here if None.
    `ssim_body` is the mean of skimage's SSIM map over the body's voxels (the map covers the slices' borders too, by
    mirroring), averaged over channels; `l2_body` is the norm of the difference in the body. A column is NaN with a
    reason if slices are smaller than SSIM's window or there is no body."""
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


def energy_scores(clean: Volume, adversarial: Volume) -> Scores:
    """Returns the mean absolute DCT coefficient per band (low, middle, high) of 8 x 8 x 8 blocks of the change from
    `clean` to `adversarial`. Every block
    has an orthonormal DCT-II; bands are those of SA2 (`freqbench.ops.dct.band_mask`: low and high have 20 of 512
    coefficients each). White noise of standard deviation s has s * sqrt(2 / pi) in every band. A volume that blocks do
    not tile is padded by reflection on its high sides; a block is cut to a smaller volume. Several channels are
    averaged. Columns `energy_low`, `energy_middle`, `energy_high` on the [0, 1] scale, on the device of `clean`; NaN
    with a reason for a band without a coefficient, in blocks of one or two voxels."""
    first, second = pair_of(clean, adversarial)
    magnitudes = band_magnitude((second.double() - first)[None], ENERGY_BLOCK)[0].tolist()
    values = dict(zip((f"energy_{band}" for band in BANDS), magnitudes, strict=True))
    reason = "the volume is too small to have such frequencies"
    return Scores(values=values, reasons={column: reason for column, value in values.items() if math.isnan(value)})


def seam_scores(clean: Volume, adversarial: Volume, windows: Sequence[tuple[slice, slice, slice]]) -> Scores:
    r"""Returns the ratio of the change's jumps across borders of windows to those within windows: column `seam_energy`.

    With d = adversarial - clean, B_a the faces between neighbouring voxels along axis a at which the next window begins
    and overwrites, and I_a all other faces along that axis, over all channels:

    .. math:: S = \frac{\sum_a \sum_{B_a} |d_{i+1} - d_i|}{\sum_a |B_a| \; \mathrm{mean}_{I_a} |d_{i+1} - d_i|}

    It is 1 if borders are like any other place (a ramp, white noise), and larger if windows show. Axes without a border
    are left out, so that a change that is smoother along one axis does not count as a seam. The metric is this
    project's own; the tiling is that of the papers' releases (the last window of an axis is shifted back inside and
    overwrites, so that its first face is the border). NaN with a reason for a volume of one window, and if nothing
    varies within windows. `windows` are `freqbench.models.attack_windows` of the volume."""
    first, second = pair_of(clean, adversarial)
    change = second - first
    across = expected = 0.0
    num_borders = 0
    for axis in range(3):
        starts = {window[axis].start for window in windows} - {0}
        others = [dim for dim in range(4) if dim != axis + 1]
        jumps = change.diff(dim=axis + 1).abs_().sum(dim=others, dtype=torch.float64).tolist()
        within = [jump for index, jump in enumerate(jumps, 1) if index not in starts]
        num_borders += len(starts)
        if within:
            across += sum(jumps[start - 1] for start in starts)
            expected += len(starts) * sum(within) / len(within)
    if expected:
        return Scores(values={"seam_energy": across / expected})
    reason = "the change does not vary within windows" if num_borders else "the volume is a single window"
    return Scores(values={"seam_energy": math.nan}, reasons={"seam_energy": reason})


def _pair(clean: Volume, adversarial: Volume) -> Pair:
    first, second = (volume.cpu().numpy() for volume in pair_of(clean, adversarial))
    return first.astype(np.float32, copy=False), second.astype(np.float32, copy=False)


def _difference(pair: Pair) -> npt.NDArray[np.float64]:
    return pair[1].astype(np.float64) - pair[0]


def _norm(values: npt.NDArray[np.float64]) -> float:
    """Returns the Euclidean norm; `np.linalg.norm` sums by BLAS, whose last bits depend on its number of threads."""
    return math.sqrt(float(np.square(values).sum()))


def _psnr(pair: Pair) -> float:
    from skimage.metrics import peak_signal_noise_ratio

    if np.array_equal(*pair):
        return math.inf
    return float(peak_signal_noise_ratio(pair[0] * 255, pair[1] * 255, data_range=255))


def _ssim_with_map(pair: Pair) -> tuple[float, list[npt.NDArray[np.float32]]]:
    """Returns the mean over channels, and the map `[H, W, D]` of each."""
    from skimage.metrics import structural_similarity

    sides = pair[0].shape[1:3]
    if min(sides) < SSIM_WINDOW:
        raise UserError(
            f"ssim: expected slices of at least {SSIM_WINDOW} x {SSIM_WINDOW} voxels, got {sides[0]} x {sides[1]}"
        )
    means = []
    maps = []
    for clean, adversarial in zip(*pair, strict=True):
        mean, similar = structural_similarity(clean * 255, adversarial * 255, channel_axis=2, data_range=255, full=True)
        means.append(float(mean))
        maps.append(similar)
    return _mean(means), maps


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)  # not fmean, which rounds otherwise
