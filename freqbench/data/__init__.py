"""Datasets: cases on a preprocessed grid with intensities in [0, 1]."""

from collections.abc import Mapping

from freqbench.data.base import Dataset
from freqbench.data.decathlon import Decathlon
from freqbench.data.native import attacked_native, resampling_error
from freqbench.data.phantom import Phantom
from freqbench.data.preprocess import prepare
from freqbench.data.standin import StandIn

DATASETS: Mapping[str, type[Dataset]] = {"phantom": Phantom, "stand_in": StandIn, "decathlon": Decathlon}

__all__ = ["DATASETS", "Dataset", "attacked_native", "prepare", "resampling_error"]
