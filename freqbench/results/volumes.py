"""Names the folders and files of a store's volumes: one folder per cell and case below `volumes/`.
volumes/ATTACK-SOURCE-CELL_ID/CASE-CASE_KEY/adversarial.nii.gz, clean, label, label_adversarial (where the attack moves
labels), prediction_clean-TARGET, prediction_adversarial-TARGET, scored-TARGET (where scores are not on the volume's
grid), and attack.json, which is written last and marks the folder as complete. It states the intensities of the file
that are 0 and 1. Of regions that overlap, label maps have a label for each set of regions, whose regions it states."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from freqbench.core import config, names
from freqbench.core.files import storage
from freqbench.core.types import Window
from freqbench.ops.regions import MOST_REGIONS

VOLUMES = "volumes"
FACTS = "attack.json"
SUFFIX = ".nii.gz"
CLEAN = f"clean{SUFFIX}"
ADVERSARIAL = f"adversarial{SUFFIX}"
LABEL = f"label{SUFFIX}"
MOVED_LABEL = f"label_adversarial{SUFFIX}"
ON_CLEAN = "prediction_clean"
ON_ADVERSARIAL = "prediction_adversarial"
RegionsOfLabels = list[list[Annotated[int, Field(ge=1, le=MOST_REGIONS)]]]
"""Numbers of the regions that each label of a map lies in, the last in front; empty: classes exclude each other."""
Unit = Literal["HU", ""]  # unit of a file's intensities; empty: the file's own, without a name


class VolumeFacts(config.Strict):
    """Facts that lead from saved volumes to the file; `native_ranges` are 0 and 1 by channel, None if not affine."""

    regions: RegionsOfLabels = Field(default=[])  # of the label maps beside it
    native_ranges: list[Window | None] = Field(default=[])
    unit: Unit = ""


def volume_facts(facts: Mapping[str, Any], where: str) -> VolumeFacts:
    """Returns what facts of a dataset or of a saved volume state; UserError, which begins with `where`, for others."""
    return config.validate({key: facts[key] for key in VolumeFacts.model_fields if key in facts}, VolumeFacts, where)


def regions_of(facts: Mapping[str, Any], where: str) -> RegionsOfLabels:
    """Returns the `regions` in `facts` of `volume_facts`; a UserError's line begins with `where`."""
    return volume_facts(facts, where).regions


def cell_folder(attack: str, source: str, cell_id: str) -> str:
    """Returns the name of a cell's folder, by the names `attack` and `source` and the id `cell_id`; raises UserError if
    a name may not become part of a file name."""
    return f"{names.require_name(attack, 'attack')}-{names.require_name(source, 'model')}-{cell_id}"


def prediction(kind: str, target: str) -> str:
    """Returns the name of the file of a target's label map, of the `kind` ON_CLEAN or ON_ADVERSARIAL; raises as
    `cell_folder`."""
    return f"{kind}-{names.require_name(target, 'model')}{SUFFIX}"


def scored_maps(target: str) -> str:
    """Name of the file of what a target's scores are of, four maps: label and prediction, clean and attacked."""
    return f"scored-{names.require_name(target, 'model')}{SUFFIX}"


def whole(root: str) -> dict[tuple[str, str], str]:
    """Returns the complete folders `CELL/CASE` below the `volumes` folder `root`, by cell id and case key."""
    folders = (path.rpartition("/")[0] for path in storage.list_below(root, FACTS))
    pairs = (folder.split("/") for folder in folders if folder.count("/") == 1)
    return {(cell.rpartition("-")[2], case.rpartition("-")[2]): f"{cell}/{case}" for cell, case in pairs}


def predictions(files: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns files of label maps by target and kind, from the names in a folder."""
    by_target: dict[str, dict[str, str]] = {}
    for name in files:
        kind, dash, target = name.removesuffix(SUFFIX).partition("-")
        if dash and kind in (ON_CLEAN, ON_ADVERSARIAL):
            by_target.setdefault(target, {})[kind] = name
    return by_target
