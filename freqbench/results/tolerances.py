"""How far a result may be from the same result computed elsewhere: on another device, or by other versions.

On the same device, with the same versions, threads and window batch, results are equal to the bit. Elsewhere sums are
taken in another order: a logit moves in its last bits, and where two classes are as good as equal a voxel changes its
class; a gradient that vanishes changes its sign, and what an iterated attack makes of that grows from step to step. So
clean predictions move by single voxels, distances of the attacked volume a little, and scores under attack the most.

The numbers are about three times the largest difference that was seen between the widest vector instructions of a
processor and its narrowest (ATen `default`, oneDNN SSE4.1), and one thread and two, over all attacks on small volumes;
see `tests/engine/test_reproduce_elsewhere.py`. On larger volumes they are generous.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Two numbers agree where they differ by at most `absolute + relative * |stored|`; NaN agrees with NaN alone."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, stored: float, found: float) -> bool:
        """Whether a number agrees with the one that is stored."""
        if stored == found or (math.isnan(stored) and math.isnan(found)):
            return True
        return abs(stored - found) <= self.absolute + self.relative * abs(stored)

    def __str__(self) -> str:
        parts = [f"{self.absolute:g}"] if self.absolute else []
        parts += [f"{100 * self.relative:g} %"] if self.relative else []
        return " + ".join(parts) or "0"


EXACT = Tolerance()
_CLEAN_DICE = Tolerance(absolute=0.002)
_DICE = Tolerance(absolute=0.02)
_CLEAN_SURFACE = Tolerance(absolute=1.0, relative=0.02)  # one voxel more or less, in voxels or mm
_SURFACE = Tolerance(absolute=1.0, relative=0.1)
_PASSES = Tolerance(relative=0.1)  # attacks that stop when they are done may be done earlier

TOLERANCES: Mapping[str, Mapping[str, Tolerance]] = {
    "records": {
        "dsc": _DICE,
        "dsc_clean": _CLEAN_DICE,
        "dsc_foreground": _DICE,
        "dsc_foreground_clean": _CLEAN_DICE,
        "hd95": _SURFACE,
        "hd95_clean": _CLEAN_SURFACE,
        "hd95_mm": _SURFACE,
        "hd95_mm_clean": _CLEAN_SURFACE,
        "hd95_medpy_mm": _SURFACE,
        "hd95_penalised": _SURFACE,
        "hd95_penalised_clean": _CLEAN_SURFACE,
        "ssim": Tolerance(absolute=0.005),
        "ssim_body": Tolerance(absolute=0.005),
        "psnr": Tolerance(absolute=0.2),
        "lpips_similarity": Tolerance(absolute=0.005),
        "lpips_distance": Tolerance(absolute=0.005),
        "lpips_body": Tolerance(absolute=0.005),
        "linf": Tolerance(absolute=1e-4, relative=0.02),
        "l2": Tolerance(relative=0.02),
        "l2_body": Tolerance(relative=0.02),
        "energy_low": Tolerance(absolute=1e-5, relative=0.05),
        "energy_middle": Tolerance(absolute=1e-5, relative=0.05),
        "energy_high": Tolerance(absolute=1e-5, relative=0.05),
        "seam_energy": Tolerance(relative=0.05),
        "eps_native": Tolerance(relative=1e-9),
        "resampling_error": Tolerance(absolute=1e-5, relative=0.02),
        "voxel_success": Tolerance(absolute=0.02),
        "num_forwards": _PASSES,
        "num_backwards": _PASSES,
    },
    "class_records": {
        "pred_voxels": Tolerance(absolute=20, relative=0.1),
        "pred_voxels_clean": Tolerance(absolute=5, relative=0.01),
        "dsc": Tolerance(absolute=0.05),
        "dsc_clean": Tolerance(absolute=0.01),
        "hd95": _SURFACE,
        "hd95_clean": _CLEAN_SURFACE,
        "hd95_mm": _SURFACE,
        "hd95_mm_clean": _CLEAN_SURFACE,
        "hd95_medpy_mm": _SURFACE,
    },
}
"""By table and column. What is not listed (counts of windows, of classes missed, voxels of the label) is equal."""
