"""Bounds the difference between a result and the same result from another device or other versions.

On the same device, with the same versions, threads and window batch, results are equal to the bit. Elsewhere sums are
taken in another order. A logit moves in its last bits, and where two classes are nearly equal a voxel changes its
class; a gradient that vanishes changes its sign, and an iterated attack amplifies that from step to step. So clean
predictions move by single voxels, distances of the attacked volume a little, and scores under attack the most.

The numbers are at least three times the largest difference that was seen when the same processor computed with its
widest vector instructions and with its narrowest (ATen `default`, oneDNN SSE4.1): 73 rows of 26 attacks with few steps,
the phantom's UNet and SegResNet on 24x24x24 voxels. There most rows stayed equal to the bit; the means moved by 0.0017
(Dice), 8 % (HD95), 0.0018 (SSIM), 0.11 dB, 1.6 % (L2, energy) and 6 % (L-inf of SA2, one voxel), and 20 voxels that
changed class took 60 % of a small organ's distance. LPIPS, seams and passes were not seen to move: their tolerances are
guesses, and so are those of _OF_LABELS, which came later. On larger volumes, where a voxel counts less, all are
generous; after many steps they may be narrow.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Two numbers agree if they differ by at most `absolute + relative * |stored|`; NaN agrees with NaN only."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, stored: float, found: float) -> bool:
        """True if a number agrees with the stored one."""
        return bool(np.isclose(found, stored, rtol=self.relative, atol=self.absolute, equal_nan=True))

    def __str__(self) -> str:
        parts = [f"{self.absolute:g}"] if self.absolute else []
        parts += [f"{100 * self.relative:g} %"] if self.relative else []
        return " + ".join(parts) or "0"


EXACT = Tolerance()
_CLEAN_SURFACE = Tolerance(absolute=1.0, relative=0.02)  # one voxel more or less, in voxels or mm
_SURFACE = Tolerance(absolute=1.0, relative=0.25)
_CLASS_SURFACE = Tolerance(absolute=5.0, relative=2.0)  # a small organ may be predicted by a few voxels only
_BETTI = Tolerance(absolute=5, relative=0.5), Tolerance(absolute=2, relative=0.1)  # a voxel alone is a component
_LESIONS = Tolerance(absolute=112.0), Tolerance(absolute=112.0)  # 0.3 of the penalty: a voxel may be a lesion
_OF_LABELS: Mapping[str, tuple[Tolerance, Tolerance]] = {  # for the attacked and for the clean volume
    "nsd": (Tolerance(absolute=0.05), Tolerance(absolute=0.01)),
    "assd_mm": (Tolerance(absolute=0.5, relative=0.25), Tolerance(absolute=0.1, relative=0.05)),
    "volume_error_ml": (Tolerance(absolute=1.0, relative=0.25), Tolerance(absolute=0.1, relative=0.05)),
    "volume_error_relative": (Tolerance(absolute=0.1, relative=0.25), Tolerance(absolute=0.01, relative=0.05)),
    "component_f1": (Tolerance(absolute=0.3), Tolerance(absolute=0.3)),
    **dict.fromkeys(("dsc_brats", "lesion_dice"), (Tolerance(absolute=0.3), Tolerance(absolute=0.3))),
    **dict.fromkeys(("hd95_brats_mm", "lesion_hd95_mm"), _LESIONS),
    **dict.fromkeys(("lesions_missed", "lesions_false"), _BETTI),
    **dict.fromkeys(("betti0_error", "betti1_error", "betti2_error"), _BETTI),
    **dict.fromkeys(("ece", "ece_foreground"), (Tolerance(absolute=0.02), Tolerance(absolute=0.002))),
    "wrong_confidence": (Tolerance(absolute=0.05), Tolerance(absolute=0.02)),
}


def _of_labels(times: float = 1.0) -> dict[str, Tolerance]:
    """Returns the tolerances of _OF_LABELS by column, `times` as wide: a class moves more than the mean."""
    return {
        f"{name}{suffix}": Tolerance(absolute=times * tolerance.absolute, relative=times * tolerance.relative)
        for name, pair in _OF_LABELS.items()
        for suffix, tolerance in zip(("", "_clean"), pair, strict=True)
    }


TOLERANCES: Mapping[str, Mapping[str, Tolerance]] = {
    "records": {
        **dict.fromkeys(("dsc", "dsc_foreground", "voxel_success"), Tolerance(absolute=0.02)),
        **dict.fromkeys(("dsc_clean", "dsc_foreground_clean"), Tolerance(absolute=0.002)),
        **dict.fromkeys(("hd95", "hd95_mm", "hd95_medpy_mm", "hd95_penalised"), _SURFACE),
        **dict.fromkeys(("hd95_clean", "hd95_mm_clean", "hd95_penalised_clean"), _CLEAN_SURFACE),
        **_of_labels(),
        **dict.fromkeys(("ssim", "ssim_body"), Tolerance(absolute=0.005)),
        "psnr": Tolerance(absolute=0.35),
        **dict.fromkeys(("lpips_similarity", "lpips_distance", "lpips_body"), Tolerance(absolute=0.005)),
        "linf": Tolerance(absolute=1e-4, relative=0.2),
        **dict.fromkeys(("l2", "l2_body", "seam_energy"), Tolerance(relative=0.05)),
        **dict.fromkeys(("energy_low", "energy_middle", "energy_high"), Tolerance(absolute=1e-5, relative=0.05)),
        "displacement_mean_mm": Tolerance(absolute=0.01, relative=0.05),
        "displacement_max_mm": Tolerance(absolute=0.01, relative=0.05),
        "jacobian_min": Tolerance(absolute=0.05),
        **dict.fromkeys(("smallest_linf", "smallest_l2"), Tolerance(absolute=1e-4, relative=0.2)),
        "eps_native": Tolerance(relative=1e-9),
        "resampling_error": Tolerance(absolute=1e-5, relative=0.02),
        # Attacks that stop early may stop at another step; windows whose graphs do not fit into memory run twice.
        "num_forwards": Tolerance(relative=1.0),
        "num_backwards": Tolerance(relative=0.1),
    },
    "class_records": {
        "pred_voxels": Tolerance(absolute=20, relative=0.4),
        "pred_voxels_clean": Tolerance(absolute=5, relative=0.01),
        "dsc": Tolerance(absolute=0.05),
        "dsc_clean": Tolerance(absolute=0.01),
        **dict.fromkeys(("hd95", "hd95_mm", "hd95_medpy_mm"), _CLASS_SURFACE),
        **dict.fromkeys(("hd95_clean", "hd95_mm_clean"), _CLEAN_SURFACE),
        **_of_labels(times=3),
    },
}
"""Tolerances by table and column. Columns not listed (windows, missed classes, voxels of the label) must be equal."""

ADDED_METRIC = Tolerance(absolute=0.05, relative=0.25)
"""A guess for metrics of other packages, whose scale is not known."""

ROUNDING = Tolerance(absolute=1e-4)
"""Bounds the difference from another library on the same saved label maps and volumes: nothing is predicted anew."""
RANK = Tolerance(absolute=0.05)
"""The same for MONAI's HD95: in float32, the rank of a percentile among a million distances is off by hundredths."""
