"""Reads AMOS: abdominal CT and MR of 600 patients. Ji et al., NeurIPS 2022 Datasets, arXiv:2206.08023."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from freqbench.core.errors import DataError
from freqbench.core.input_space import Intensity
from freqbench.data.loaders.decathlon import Decathlon
from freqbench.data.loaders.synapse import WINDOW, Synapse
from freqbench.data.scans import ListedCase, Stated

LAST_CT = 500
_NUMBER = re.compile(r"amos_([0-9]{1,9})")


class AMOS(Decathlon):
    """AMOS: abdominal CT and MR of many centres, 15 organs.

    Classes have the paper's names: the download's list writes `arota` and `postcava`. Label maps are public for
    `training` and `validation`.

    Attributes:
        modality: cases numbered up to 500 are CT, those above are MR; `all` takes both.
        intensity: None takes the modality's: [-175, 250] HU for CT, `percentile` for MR and for both together.
    """

    loader: ClassVar[str] = "amos"
    homepage: ClassVar[str] = "https://zenodo.org/records/7155725"

    modality: Literal["ct", "mr", "all"] = "ct"
    split: str = "validation"

    @classmethod
    def _usual_intensity(cls, values: Mapping[str, Any]) -> Intensity:
        return WINDOW if values.get("modality", "ct") == "ct" else "percentile"

    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        """Returns the file's lists by their keys, without the other modality's cases."""
        return {key: [*filter(self._is_wanted, lines)] for key, lines in super().splits().items()}

    def _is_wanted(self, line: ListedCase) -> bool:
        if not (match := _NUMBER.fullmatch(line.case_id)):
            raise DataError(f"{self.source}: expected cases like amos_0001, got {line.case_id}: use loader: decathlon")
        return self.modality in ("all", "ct" if int(match[1]) <= LAST_CT else "mr")

    def stated_labels(self) -> Stated:
        """Returns Synapse's classes in the same order, without the portal vein, and three others."""
        shared = (name for name in Synapse.names if name != "portal vein and splenic vein")
        return Stated(names=dict(enumerate((*shared, "duodenum", "bladder", "prostate/uterus"))))
