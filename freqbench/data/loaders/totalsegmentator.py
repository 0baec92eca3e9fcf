"""Reads TotalSegmentator: CT or MR of the whole body, with one mask file per structure.

Wasserthal et al., Radiology: Artificial Intelligence 2023, arXiv:2208.05868.
"""

import csv
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from freqbench.core.errors import DataError, MissingDataError, unknown
from freqbench.core.files import storage
from freqbench.core.input_space import Intensity
from freqbench.data import image_files
from freqbench.data.base import ClassName
from freqbench.data.headers import Header
from freqbench.data.labels import read_classes
from freqbench.data.loaders.folder import CaseFiles, ListedFolder, asked
from freqbench.data.nsd_tolerances import TOLERANCE_MM

WINDOW: Intensity = {"window": (-1000.0, 1000.0)}
YES_OR_NO = {0: 0, 1: 1}
"""Classes of the values of a mask."""
FILES: Mapping[str, str] = {"ct": "ct.nii.gz", "mr": "mri.nii.gz"}
"""A case's image, by its modality."""


class TotalSegmentator(ListedFolder):
    """TotalSegmentator: whole-body CT or MR, with the masks of the requested structures merged into one label map.

    `root` holds `meta.csv` and `s0000/ct.nii.gz` (or `mri.nii.gz`) with `s0000/segmentations/<structure>.nii.gz`. Where
    masks overlap, the structure later in `classes` gets the voxel. A case without any of them has only background.

    Attributes:
        classes: the structures, in order of their label from 1 on: `[liver, kidney_left, kidney_right]`.
        split: value of the column `split` in `meta.csv` (`train`, `val`, `test`), or a slice of one.
        modality: `ct` reads `ct.nii.gz`, `mr` reads `mri.nii.gz`.
        intensity: None takes the modality's: `percentile` for MR; the window for CT spans lungs, organs and bones; a
            narrower one suits abdominal organs.
    """

    loader: ClassVar[str] = "totalsegmentator"
    homepage: ClassVar[str] = "https://doi.org/10.5281/zenodo.6802613"

    classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=255)]
    labels: None = None
    label_map: None = None
    ignore: tuple[()] = ()
    modality: Literal["ct", "mr"] = "ct"
    intensity: Intensity = WINDOW

    @classmethod
    def _usual_intensity(cls, values: Mapping[str, Any]) -> Intensity:
        return "percentile" if values.get("modality") == "mr" else WINDOW

    @field_validator("classes")
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

    def splits(self) -> Mapping[str, Sequence[Any]]:
        """Returns the ids of `meta.csv` by their split."""
        path = self._source()
        return _read_splits(path, asked(storage.sha256, path, "the list of cases"))

    def _source(self) -> str:
        return storage.join(self._root(), "meta.csv")

    def _listed_labels(self) -> Mapping[int, str]:
        return dict(enumerate(("background", *self.classes)))

    @property
    def tolerances_mm(self) -> tuple[float, ...]:
        """One tolerance for all structures, as published."""
        return (TOLERANCE_MM,) * len(self.classes)

    def _case_id(self, line: Any) -> str:
        return str(line)

    def _parsed(self, line: Any) -> CaseFiles:
        folder = storage.join(self._root(), line)
        masks = tuple(storage.join(folder, "segmentations", f"{structure}.nii.gz") for structure in self.classes)
        return CaseFiles(line, self.patient_of(line), storage.join(folder, FILES[self.modality]), masks[0], masks=masks)

    def _headers(self, entry: CaseFiles) -> tuple[Header, Header | None]:
        """Returns the headers of the image and of the first mask, if masks are asked for; checks all masks."""
        for structure, mask in zip(self.classes, entry.masks, strict=bool(entry.masks)):
            folder = mask.rpartition("/")[0]
            if not storage.exists(mask) and (there := storage.list_files(folder, ".nii.gz")):
                raise DataError(f"{folder}: {unknown('structure', structure, map(image_files.stem, there))}")
        (other,) = FILES.keys() - {self.modality}
        beside = storage.join(entry.image.rpartition("/")[0], FILES[other])
        if not storage.exists(entry.image) and storage.exists(beside):
            raise MissingDataError(
                f"{entry.image}: expected the image of case {entry.case_id}, found {FILES[other]}: set modality: "
                f"{other}"
            )
        image, label = super()._headers(entry)
        for mask in entry.masks[1:]:
            image_files.read_header(image_files.fetch(mask)).check_same_grid(image)
        return image, label

    def _read_label(self, entry: CaseFiles, label: Header) -> npt.NDArray[np.uint8]:
        merged = np.zeros(label.shape, np.uint8)
        for index, mask in enumerate(entry.masks, start=1):
            merged[read_classes(image_files.read_header(image_files.fetch(mask)), YES_OR_NO) == 1] = index
        return merged


@lru_cache(maxsize=64)
def _read_splits(path: str, content_sha256: str) -> Mapping[str, Sequence[str]]:
    text = storage.fetch(path, content_sha256).read_bytes().decode("utf-8-sig", errors="replace")
    rows = csv.DictReader(text.splitlines(), delimiter=";")
    if not {"image_id", "split"} <= set(rows.fieldnames or ()):
        raise DataError(
            f"{path}: expected the columns image_id and split, apart by semicolons, got {rows.fieldnames}: "
            "fetch the file again"
        )
    splits: dict[str, list[str]] = {}
    for row in rows:
        if row["image_id"] and row["split"]:
            splits.setdefault(row["split"], []).append(row["image_id"])
    return splits
