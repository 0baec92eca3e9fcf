"""Measures where in frequency an attack changed a volume: the mean absolute DCT coefficient, band by band."""

import math

from freqbench.metrics.volumes import Scores, Volume, channels_of, require_same_shape
from freqbench.ops.bands import BANDS, band_magnitude

ENERGY_BLOCK = 8  # voxels a side: blocks of 16 and 32, as the frequency attacks have them, consist of whole ones


def energy_scores(clean: Volume, adversarial: Volume) -> Scores:
    """The mean absolute coefficient of adversarial - clean in the low, middle and high band of 8 x 8 x 8 blocks.

    Orthonormal DCT-II of every block; bands as SA2 has them (`freqbench.ops.bands.band_mask`: of 512 coefficients low
    and high have 20 each). White noise of standard deviation s has s * sqrt(2 / pi) in every band. Where blocks do not
    tile the volume it is continued by reflection on its high sides; a block is cut to a volume that is smaller. Of
    several channels the mean over channels.

    Args:
        clean: intensities in [0, 1], `[H, W, D]` or `[C, H, W, D]`; computed on the device where it is.
        adversarial: the same.

    Returns:
        Columns `energy_low`, `energy_middle`, `energy_high` on the [0, 1] scale; NaN with a reason for a band that
        holds no coefficient, in blocks of one or two voxels.

    Raises:
        UserError: shapes differ.
    """
    first, second = channels_of(clean), channels_of(adversarial)
    require_same_shape(tuple(first.shape), tuple(second.shape))
    magnitudes = band_magnitude((second.double() - first)[None], ENERGY_BLOCK)[0].tolist()
    values = dict(zip((f"energy_{band}" for band in BANDS), magnitudes, strict=True))
    reason = "the volume is too small to have such frequencies"
    return Scores(values=values, reasons={column: reason for column, value in values.items() if math.isnan(value)})
