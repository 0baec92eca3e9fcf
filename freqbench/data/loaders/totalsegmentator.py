"""Reads TotalSegmentator: CT or MR of the whole body, with one mask file per structure. Wasserthal et al., Radiology:
Artificial Intelligence 2023, arXiv:2208.05868."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from freqbench.core.errors import DataError, MissingDataError, unknown
from freqbench.core.files import storage
from freqbench.core.input_space import Intensity
from freqbench.data import image_files
from freqbench.data.base import ClassName
from freqbench.data.headers import Header
from freqbench.data.loaders.folder import ListedFolder
from freqbench.data.nsd_tolerances import TOLERANCE_MM
from freqbench.data.scans import ListedCase, MaskFiles, Scan, Stated, answer

WINDOW: Intensity = {"window": (-1000.0, 1000.0)}
FILES: Mapping[str, str] = {"ct": "ct.nii.gz", "mr": "mri.nii.gz"}  # a case's image, by its modality


class TotalSegmentator(ListedFolder, populate_by_name=True):  # so that a dumped dataset can be validated again
    """TotalSegmentator: whole-body CT or MR, with the masks of the requested structures merged into one label map.

    `root` holds `meta.csv` and `s0000/ct.nii.gz` (or `mri.nii.gz`) with `s0000/segmentations/<structure>.nii.gz`. Where
    masks overlap, the structure later in `classes` gets the voxel. A case without any of them has only background.

    Attributes:
        structures: `classes` in job files: the structures, in order of their label from 1 on: `[liver, kidney_left]`.
        split: value of the column `split` in `meta.csv` (`train`, `val`, `test`), or a slice of one.
        modality: `ct` reads `ct.nii.gz`, `mr` reads `mri.nii.gz`.
        intensity: None takes the modality's: `percentile` for MR; the window for CT spans lungs, organs and bones; a
            narrower one suits abdominal organs.
    """

    loader: ClassVar[str] = "totalsegmentator"
    homepage: ClassVar[str] = "https://doi.org/10.5281/zenodo.6802613"

    structures: Annotated[tuple[ClassName, ...], Field(alias="classes", min_length=1, max_length=255)]
    labels: None = None
    label_map: None = None
    ignore: tuple[()] = ()
    modality: Literal["ct", "mr"] = "ct"
    intensity: Intensity = WINDOW

    @classmethod
    def _usual_intensity(cls, values: Mapping[str, Any]) -> Intensity:
        return "percentile" if values.get("modality") == "mr" else WINDOW

    @field_validator("structures")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value) or "background" in value:
            raise ValueError("expected each structure once, and no background: that is all the rest")
        return value

    @field_validator("labels", "label_map", "ignore", mode="before")
    @classmethod
    def _named_by_classes(cls, value: object) -> object:
        if value not in (None, (), []):
            raise ValueError("expected none, as `classes` says them all: remove it")
        return value

    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        """Returns the cases of `meta.csv` by their split."""
        splits: dict[str, list[ListedCase]] = {}
        for split, ids in answer(_read_splits, self.source, "the list of cases").items():
            splits[split] = [ListedCase(case_id, partial(self._case, case_id)) for case_id in ids]
        return splits

    @property
    def source(self) -> str:
        """The table of all cases."""
        return storage.join(self._root(), "meta.csv")

    def stated_labels(self) -> Stated:
        """Returns the structures, with the one tolerance that was published."""
        return Stated(names=dict(enumerate(("background", *self.structures))), tolerance_mm=TOLERANCE_MM)

    def _case(self, case_id: str) -> Scan:
        folder = storage.join(self._root(), case_id)
        masks = tuple(storage.join(folder, "segmentations", f"{structure}.nii.gz") for structure in self.structures)
        return Structures(case_id=case_id, channels=(storage.join(folder, FILES[self.modality]),), masks=masks)


@dataclass(frozen=True, kw_only=True)
class Structures(MaskFiles):
    """A case of TotalSegmentator, which tells a structure that does not exist and an image of the other modality."""

    def image(self) -> Header:
        """Reads the header of the image."""
        folder, _, name = self.where.rpartition("/")
        for mask in self.masks:
            at = mask.rpartition("/")[0]
            if not storage.exists(mask) and (there := storage.list_files(at, ".nii.gz")):
                raise DataError(f"{at}: {unknown('structure', image_files.stem(mask), map(image_files.stem, there))}")
        ((modality, other),) = ((modality, file) for modality, file in FILES.items() if file != name)
        if not storage.exists(self.where) and storage.exists(storage.join(folder, other)):
            raise MissingDataError(f"{self.where}: expected an image, found {other}: set modality: {modality}")
        return super().image()


@storage.once_each_content
def _read_splits(path: str) -> Mapping[str, Sequence[str]]:
    text = storage.fetch(path).read_bytes().decode("utf-8-sig", errors="replace")
    rows = csv.DictReader(text.splitlines(), delimiter=";")
    if not {"image_id", "split"} <= set(rows.fieldnames or ()):
        raise DataError(f"{path}: expected the columns image_id;split, got {rows.fieldnames}: fetch it again")
    splits: dict[str, list[str]] = {}
    for row in rows:
        if row["image_id"] and row["split"]:
            splits.setdefault(row["split"], []).append(row["image_id"])
    return splits
