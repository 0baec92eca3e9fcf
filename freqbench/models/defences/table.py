"""Lists the defences by their names in a job file."""

from collections.abc import Mapping

from freqbench.models.defences.base import Defence
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
from freqbench.models.defences.smoothing import Smoothing
from freqbench.models.defences.transforms import (
    BitDepth,
    DctQuantization,
    GaussianSmoothing,
    MedianSmoothing,
    RandomResizePad,
    TotalVariation,
)

DEFENCES: Mapping[str, type[Defence]] = {
    "gaussian_smoothing": GaussianSmoothing,
    "median_smoothing": MedianSmoothing,
    "bit_depth": BitDepth,
    "dct_quantization": DctQuantization,
    "total_variation": TotalVariation,
    "random_resize_pad": RandomResizePad,
    "randomized_smoothing": RandomizedSmoothing,
    "smoothing": Smoothing,
}
