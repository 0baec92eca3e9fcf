"""Lists the defences by their names in a job file."""

from collections.abc import Mapping

from freqbench.models.defences import detectors, transforms
from freqbench.models.defences.base import Defence
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
from freqbench.models.defences.smoothing import Smoothing

DEFENCES: Mapping[str, type[Defence]] = {
    "gaussian_smoothing": transforms.GaussianSmoothing,
    "median_smoothing": transforms.MedianSmoothing,
    "bit_depth": transforms.BitDepth,
    "dct_quantization": transforms.DctQuantization,
    "total_variation": transforms.TotalVariation,
    "random_resize_pad": transforms.RandomResizePad,
    "randomized_smoothing": RandomizedSmoothing,
    "smoothing": Smoothing,
    "band_energy": detectors.BandEnergy,
    "feature_distance": detectors.FeatureDistance,
    "prediction_change": detectors.PredictionChange,
}
