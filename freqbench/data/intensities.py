"""Compares a volume's intensities with the window that scales them, and names the usual cause of a misfit."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freqbench.core.input_space import Preprocess, Scaling, parse_intensity
from freqbench.core.types import NO_LABEL, Case, NativeCase

Voxels = npt.NDArray[np.float32]

# Share of the window that the percentiles 0.5 to 99.5 cover at least: a network sees a flat volume below it.
LEAST_COVERED = 0.05
# Share of the labelled voxels, and of either half of the others, that lies inside the window at least. Airways, bones
# and contrast agent are clipped as a whole in honest windows, but the body around them is not.
LEAST_LABELLED, LEAST_BODY, LEAST_REST = 0.25, 0.1, 0.5
# Lower bound of a window of HU: fat, which is in every body, is negative by more.
SIGNED = -50.0
# Median of the body of HU + 1024, in HU + 1024 or + 1000.
OFFSET = (800.0, 1300.0)
# Share of the volume's faces at the upper bound from which the background is bright: it is air, the darkest of all.
MOST_BRIGHT_FACES = 0.5
# Voxels that percentiles and the threshold are sought on: more give the same.
SAMPLED = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Shares of a channel's voxels inside and outside of its window, each 0 to 1."""

    percentiles: tuple[float, float]  # intensities at 0.5 and 99.5 percent
    covered: float  # part of the window between these two
    low: float  # labelled voxels at or below the lower bound, the mean over classes; of the body without labels
    high: float  # the same at or above the upper bound
    body: float  # voxels of the brighter half of the volume inside the window, by Otsu's threshold
    rest: float  # the same of the darker half, without its least intensity, which is often padding
    faces: float  # voxels of the volume's six faces at or above the upper bound
    lowest: float  # least intensity of the volume
    middle: float  # median intensity of the brighter half
    is_labelled: bool  # True if `low` and `high` are of labelled voxels


def scale_warnings(native: NativeCase, preprocess: Preprocess) -> Iterator[str]:
    """Yields one line per channel whose intensities do not fit the window of `preprocess`, with the usual cause.

    The percentiles 0.5 to 99.5 cover less than LEAST_COVERED of the window; or labelled voxels and body are clipped; or
    a window that begins below 0 meets a volume without a negative voxel; or the background is clipped to 1. Other
    scalings follow the volume and yield nothing.
    """
    scaling = parse_intensity(preprocess.intensity)
    if scaling.kind != "window":
        return
    label = native.label[0].numpy()
    for index, channel in enumerate(native.image.numpy()):
        fit = fit_of(channel, label, scaling)
        if cause := _cause(fit, scaling):
            where = f" in channel {index}" if len(native.image) > 1 else ""
            whose = "labelled voxels" if fit.is_labelled else "the body's voxels"
            yield (
                f"expected intensities on the scale of the window [{scaling.low:g}, {scaling.high:g}], got "
                f"{fit.percentiles[0]:g} to {fit.percentiles[1]:g}{where} (percentiles 0.5 and 99.5), which cover "
                f"{max(fit.covered, 0):.0%} of it, and {fit.high:.0%} of {whose} clipped to 1, {fit.low:.0%} to 0: "
                f"{cause}"
            )


def is_ct(case: Case, preprocess: Preprocess) -> bool:
    """True if a case's file is in HU: the window of its dataset's `preprocess` begins below fat, and it fits."""
    scaling = parse_intensity(preprocess.intensity)
    return scaling.kind == "window" and scaling.low <= SIGNED and not case.off_scale


def fit_of(channel: Voxels, label: npt.NDArray[np.uint8], scaling: Scaling) -> Fit:
    """Measures a channel `[H, W, D]` in its own unit against a window; `label` is the case's map of the same shape."""
    from skimage.filters import threshold_otsu

    voxels, lowest = channel.ravel()[:: max(1, channel.size // SAMPLED)], float(channel.min())
    low, high = (float(bound) for bound in np.percentile(voxels, (0.5, 99.5)))
    inside = voxels[voxels > lowest]
    # Otsu's threshold, strictly below the greatest intensity.
    split = float(threshold_otsu(inside)) if inside.size and inside.min() < inside.max() else -np.inf
    body, rest = voxels[voxels > split], voxels[(voxels <= split) & (voxels > lowest)]
    counts = np.bincount(label.ravel(), minlength=NO_LABEL + 1)
    classes = np.flatnonzero(counts[1:NO_LABEL]) + 1
    is_low, is_high = channel <= scaling.low, channel >= scaling.high
    clipped = [
        float((np.bincount(label[where], minlength=NO_LABEL + 1)[classes] / counts[classes]).mean())
        if len(classes)
        else float(where[channel > split].mean())
        for where in (is_low, is_high)
    ]
    faces = np.concatenate([is_high.take((0, -1), axis).ravel() for axis in range(3)])
    return Fit(
        percentiles=(low, high),
        covered=(min(high, scaling.high) - max(low, scaling.low)) / (scaling.high - scaling.low),
        low=clipped[0],
        high=clipped[1],
        body=_share_inside(body, scaling),
        rest=_share_inside(rest, scaling),
        faces=float(faces.mean()),
        lowest=lowest,
        middle=float(np.median(body)),
        is_labelled=bool(len(classes)),
    )


def _share_inside(voxels: Voxels, scaling: Scaling) -> float:
    """Returns the share of voxels inside the window; 0 of none."""
    return float(((voxels > scaling.low) & (voxels < scaling.high)).mean()) if voxels.size else 0.0


def _cause(fit: Fit, scaling: Scaling) -> str:
    """Names the usual cause of a misfit, and what to do; empty if the intensities fit."""
    labelled = 1 - fit.low - fit.high
    is_clipped = fit.body < LEAST_BODY and (labelled < LEAST_LABELLED or not fit.is_labelled) and fit.rest < LEAST_REST
    is_signed = scaling.low <= SIGNED
    is_unsigned = is_signed and fit.lowest >= 0
    is_offset = is_signed and fit.percentiles[0] > SIGNED and OFFSET[0] <= fit.middle <= OFFSET[1]
    is_bright = fit.faces >= MOST_BRIGHT_FACES
    if not (fit.covered < LEAST_COVERED or is_clipped or is_unsigned or is_offset or is_bright):
        return ""
    if is_signed and is_bright and fit.percentiles[1] > 60_000:
        return "negative values seem to be stored without a sign, as 65536 too many: export them with a sign"
    if is_bright and labelled >= LEAST_LABELLED and fit.is_labelled:
        return "the background is bright, as in an inverted volume: invert it back"
    if is_offset:
        return "it looks like HU + 1024 without an intercept in the header: subtract 1024, or fix scl_inter"
    if fit.lowest >= 0 and fit.percentiles[1] <= 1:
        return "they seem to be scaled to [0, 1] already: give the files before scaling, or {window: [0, 1]}"
    if is_unsigned and fit.percentiles[1] <= 255:
        return "they seem to be an 8-bit picture of a window: give the files before scaling"
    if is_unsigned:
        return "no voxel is negative, so an offset seems to be added: subtract it, or fix scl_inter"
    return "give the files' own window or `percentile` as `intensity`, and a network trained on them"
