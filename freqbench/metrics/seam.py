"""Measures whether a change of a volume shows the windows that it was made in."""

import math
from collections.abc import Sequence

import torch

from freqbench.metrics.volumes import Scores, Volume, channels_of, require_same_shape


def seam_scores(clean: Volume, adversarial: Volume, windows: Sequence[tuple[slice, slice, slice]]) -> Scores:
    r"""How much larger the jumps of the change are across borders of windows than within them, axis by axis.

    With d = adversarial - clean, B_a the faces between neighbouring voxels along axis a that lie where one window ends
    and the next, which overwrites, begins, and I_a all other faces along that axis, over all channels:

    .. math:: S = \frac{\sum_a \sum_{B_a} |d_{i+1} - d_i|}{\sum_a |B_a| \; \mathrm{mean}_{I_a} |d_{i+1} - d_i|}

    1 where borders are like any other place (a ramp, white noise), above it where windows show. Axes along which there
    is no border take no part, so that a change that is smoother along one axis does not pass for a seam. Of this
    project; the tiling is that of the papers' releases (the last window of an axis is shifted back inside and
    overwrites, so that its own first face is the border).

    Args:
        clean: intensities in [0, 1], `[H, W, D]` or `[C, H, W, D]`; computed on the device where it is.
        adversarial: the same.
        windows: that tile the volume, a grid of them (`freqbench.models.attack_windows`).

    Returns:
        Column `seam_energy`, 0 or more; NaN with a reason for a volume of one window, and where nothing varies within
        windows.

    Raises:
        UserError: shapes differ.
    """
    first, second = channels_of(clean), channels_of(adversarial)
    require_same_shape(tuple(first.shape), tuple(second.shape))
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
