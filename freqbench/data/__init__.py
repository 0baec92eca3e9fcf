"""Datasets: cases on a preprocessed grid with intensities in [0, 1]."""

from collections.abc import Mapping

from freqbench.data.acdc import ACDC
from freqbench.data.amos import AMOS
from freqbench.data.base import Dataset, case_key_of
from freqbench.data.decathlon import Decathlon
from freqbench.data.msd import MSD
from freqbench.data.native import attacked_native, resampling_error
from freqbench.data.nnunet_raw import NnunetRaw
from freqbench.data.phantom import Phantom
from freqbench.data.preprocess import prepare
from freqbench.data.standin import StandIn
from freqbench.data.synapse import Synapse
from freqbench.data.totalsegmentator import TotalSegmentator

DATASETS: Mapping[str, type[Dataset]] = {
    "phantom": Phantom,
    "stand_in": StandIn,
    "decathlon": Decathlon,
    "synapse": Synapse,
    "acdc": ACDC,
    "msd": MSD,
    "amos": AMOS,
    "totalsegmentator": TotalSegmentator,
    "nnunet_raw": NnunetRaw,
}

__all__ = ["DATASETS", "Dataset", "attacked_native", "case_key_of", "prepare", "resampling_error"]
