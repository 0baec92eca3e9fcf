"""Compares a volume's intensities with the window that scales them, and names the usual cause of a misfit."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from freqbench.core.input_space import Preprocess, Scaling, parse_intensity
from freqbench.core.types import NO_LABEL, Case, NativeCase

Voxels = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
LEAST_COVERED = 0.05  # least share of the window that percentiles 0.5 to 99.5 cover: below, networks see a flat volume
# Share of the labelled voxels, and of either half of the others, that lies inside the window at least. Airways, bones
# and contrast agent are clipped as a whole in honest windows, but the body around them is not.
LEAST_LABELLED = 0.25
LEAST_BODY = 0.1
LEAST_REST = 0.5
SIGNED = -50.0  # lower bound of a window of HU: fat, which is in every body, is negative by more
OFFSET = (800.0, 1300.0)  # median of the body of HU + 1024, in HU + 1024 or + 1000
# Share of the volume's faces at the upper bound from which the background is bright: it is air, the darkest of all.
MOST_BRIGHT_FACES = 0.5
SAMPLED = 2_000_000  # voxels that percentiles and the threshold are sought on: more give the same


def scale_warnings(native: NativeCase, preprocess: Preprocess) -> Iterator[str]:
    """Yields one line per channel of `native` whose intensities do not fit the window of `preprocess`, with the usual
    cause: a share below LEAST_COVERED, clipped labels, body or background, or a window too low."""
    scaling = parse_intensity(preprocess.intensity)
    for index, channel in enumerate(native.image.numpy() if scaling.kind == "window" else ()):
        where = f" in channel {index}" if len(native.image) > 1 else ""
        if misfit := _misfit(channel, native.label[0].numpy(), scaling, where):
            yield misfit


def is_ct(case: Case, preprocess: Preprocess) -> bool:
    """True if a case's file is in HU: the window of its dataset's `preprocess` begins below fat, and it fits."""
    scaling = parse_intensity(preprocess.intensity)
    return scaling.kind == "window" and scaling.low <= SIGNED and not case.off_scale


def _misfit(channel: Voxels, label: npt.NDArray[np.uint8], scaling: Scaling, where: str) -> str:
    """Returns a line on a channel `[H, W, D]` in its own unit that does not fit a window; empty if it fits."""
    voxels = channel.ravel()[:: max(1, channel.size // SAMPLED)]
    lowest = float(channel.min())
    low, high = (float(bound) for bound in np.percentile(voxels, (0.5, 99.5)))
    inside = voxels[voxels > lowest]
    split = _body_threshold(inside)
    body = voxels[voxels > split]
    within = _share_within(body, scaling)
    around = _share_within(inside[inside <= split], scaling)
    is_high = channel >= scaling.high
    of_body = channel > split
    counts = np.bincount(label.ravel(), minlength=NO_LABEL + 1)[:NO_LABEL]
    counts[0] = 0  # the background
    has_classes = bool(counts.any())
    to_0 = _share_clipped(channel <= scaling.low, label, counts, of_body)
    to_1 = _share_clipped(is_high, label, counts, of_body)
    labelled = 1 - to_0 - to_1
    covered = (min(high, scaling.high) - max(low, scaling.low)) / (scaling.high - scaling.low)
    is_cut_out = labelled < LEAST_LABELLED or not has_classes
    is_clipped = within < LEAST_BODY and is_cut_out and around < LEAST_REST
    is_signed = scaling.low <= SIGNED
    is_unsigned = is_signed and lowest >= 0
    is_offset = is_signed and low > SIGNED and OFFSET[0] <= float(np.median(body)) <= OFFSET[1]
    faces = [is_high.take((0, -1), axis).ravel() for axis in range(3)]
    is_bright = np.concatenate(faces).mean() >= MOST_BRIGHT_FACES
    if not (covered < LEAST_COVERED or is_clipped or is_unsigned or is_offset or is_bright):
        return ""
    is_wrapped = is_signed and is_bright and high > 60_000
    is_inverted = is_bright and has_classes and labelled >= LEAST_LABELLED
    is_scaled = lowest >= 0 and high <= 1
    is_picture = is_unsigned and high <= 255
    causes = {
        "negative values seem to be stored without a sign, as 65536 too many: export them with a sign": is_wrapped,
        "the background is bright, as in an inverted volume: invert it back": is_inverted,
        "it looks like HU + 1024 without an intercept in the header: subtract 1024, or fix scl_inter": is_offset,
        "they seem to be scaled to [0, 1] already: give the files before scaling, or {window: [0, 1]}": is_scaled,
        "they seem to be an 8-bit picture of a window: give the files before scaling": is_picture,
        "no voxel is negative, so an offset seems to be added: subtract it, or fix scl_inter": is_unsigned,
        "give the files' own window or `percentile` as `intensity`, and a network trained on them": True,
    }
    cause = next(cause for cause, holds in causes.items() if holds)
    whose = "labelled voxels" if has_classes else "the body's voxels"
    return (
        f"expected intensities on the scale of the window [{scaling.low:g}, {scaling.high:g}], got {low:g} to {high:g}"
        f"{where} (percentiles 0.5 and 99.5), which cover {max(covered, 0):.0%} of it, and {to_1:.0%} of {whose} "
        f"clipped to 1, {to_0:.0%} to 0: {cause}"
    )


def _body_threshold(inside: Voxels) -> float:
    """Returns Otsu's threshold, strictly below the greatest intensity, which parts body and rest; the least, often
    padding, is left out before."""
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(inside)) if inside.size and inside.min() < inside.max() else -np.inf


def _share_within(voxels: Voxels, scaling: Scaling) -> float:
    """Share of voxels inside the window; 0 of none."""
    is_inside = (voxels > scaling.low) & (voxels < scaling.high)
    return float(is_inside.mean()) if voxels.size else 0.0


def _share_clipped(clipped: Mask, label: Labels, counts: npt.NDArray[np.intp], body: Mask) -> float:
    """Share of the labelled voxels that are clipped, mean over classes by their `counts` of voxels; without labels,
    share of the body's voxels."""
    if not counts.any():
        return float(clipped[body].mean())
    classes = np.flatnonzero(counts)
    held = np.bincount(label[clipped], minlength=NO_LABEL + 1)
    return float((held[classes] / counts[classes]).mean())
