"""Datasets: cases on a preprocessed grid with intensities in [0, 1]."""

from collections.abc import Mapping

from freqbench.data.base import Dataset
from freqbench.data.decathlon import Decathlon
from freqbench.data.phantom import Phantom

DATASETS: Mapping[str, type[Dataset]] = {"phantom": Phantom, "decathlon": Decathlon}

__all__ = ["DATASETS", "Dataset"]
