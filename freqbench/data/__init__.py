"""Datasets: cases on a preprocessed grid with intensities in [0, 1]."""

from collections.abc import Mapping

from freqbench.data.acdc import ACDC
from freqbench.data.amos import AMOS
from freqbench.data.base import Dataset
from freqbench.data.decathlon import Decathlon
from freqbench.data.msd import MSD
from freqbench.data.nnunet_raw import NnunetRaw
from freqbench.data.phantom import Phantom
from freqbench.data.synapse import Synapse
from freqbench.data.totalsegmentator import TotalSegmentator

DATASETS: Mapping[str, type[Dataset]] = {
    "phantom": Phantom,
    "decathlon": Decathlon,
    "synapse": Synapse,
    "acdc": ACDC,
    "msd": MSD,
    "amos": AMOS,
    "totalsegmentator": TotalSegmentator,
    "nnunet_raw": NnunetRaw,
}

__all__ = ["DATASETS", "Dataset"]
