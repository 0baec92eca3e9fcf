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
guesses, and so are those of the other metrics of label maps, which came later. On larger volumes, where a voxel counts
less, all are generous; after many steps they may be narrow. `core/measures.py` has those of metrics.
"""

from collections.abc import Mapping

from freqbench.core.measures import NUMBERS
from freqbench.core.measures import Tolerance as Tolerance

EXACT = Tolerance()


def _tolerances_of_metrics(of_classes: bool = False) -> dict[str, Tolerance]:
    found: dict[str, Tolerance] = {}
    for number in NUMBERS:
        found |= {name: agrees for name, _, agrees in number.columns(of_classes) if agrees != EXACT}
    return found


TOLERANCES: Mapping[str, Mapping[str, Tolerance]] = {
    "records": {
        **_tolerances_of_metrics(),
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
        **_tolerances_of_metrics(of_classes=True),
    },
}
"""Tolerances by table and column. Columns not listed (windows, missed classes, voxels of the label) must be equal."""
ROUNDING = Tolerance(absolute=1e-4)
"""Bounds the difference from MedPy's score of the same label maps."""
COMPILED: Mapping[str, Tolerance] = {"float32": Tolerance(relative=1e-5), "bfloat16": Tolerance(relative=0.03)}
"""Bounds the difference of a compiled function of `ops` from the plain one, by dtype, in its largest number: some last
bits. A coefficient that is rounded to another multiple, or a slope of another voxel, is far outside."""
