"""Reads datasets: cases on a preprocessed grid with intensities in [0, 1]."""

from collections.abc import Mapping

from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.types import CaseRef, NativeCase
from freqbench.data.base import Dataset, case_key_of
from freqbench.data.loaders.acdc import ACDC
from freqbench.data.loaders.amos import AMOS
from freqbench.data.loaders.decathlon import Decathlon
from freqbench.data.loaders.dicom import DicomFolders
from freqbench.data.loaders.folder import ListedFolder
from freqbench.data.loaders.images import Images
from freqbench.data.loaders.msd import MSD
from freqbench.data.loaders.nnunet_raw import NnunetRaw
from freqbench.data.loaders.pairs import Pairs
from freqbench.data.loaders.phantom import Phantom, StandIn
from freqbench.data.loaders.synapse import Synapse
from freqbench.data.loaders.totalsegmentator import TotalSegmentator
from freqbench.data.preprocess import attacked_native, prepare, resampling_error

__all__ = ["CaseRef", "Dataset", "ListedFolder", "NativeCase", "Preprocess", "attacked_native", "case_key_of"]
__all__ += ["digest", "prepare", "resampling_error"]


def listed_cases(dataset: Dataset) -> int | None:
    """Returns the number of cases that a dataset's split lists; None if it is unknown without the files."""
    if isinstance(dataset, Phantom):
        return len(dataset.whole_split())
    return dataset.listed_cases() if isinstance(dataset, ListedFolder) else None


def channel_names(dataset: Dataset) -> tuple[str, ...]:
    """Returns the names of a dataset's channels, if its files or its job state them; else none."""
    return dataset.channel_names if isinstance(dataset, ListedFolder) else ()


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
    "pairs": Pairs,
    "images": Images,
    "dicom": DicomFolders,
}
