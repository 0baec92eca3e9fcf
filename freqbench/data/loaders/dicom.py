"""Reads folders of DICOM: a folder of slices a case, and its segmentation as DICOM SEG."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from freqbench.core.errors import DataError, MissingDataError
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.types import IGNORED, CaseRef
from freqbench.data import dicom
from freqbench.data.headers import Header
from freqbench.data.labels import few, plain
from freqbench.data.loaders.folder import CaseFiles, ListedFolder, UnlabelledError

DEPTH = 5  # of folders of a case in which slices are looked for
IMAGES, LABELS = "images", "labels"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A case's files as they are called on the disk."""

    files: tuple[Path, ...]  # of the folder: slices and others
    segmentations: tuple[Path, ...]
    is_called_otherwise: bool  # as its folder's name holds a field of the patient


class DicomFolders(ListedFolder):
    """CT, MR and PET series as DICOM: `images/CASE` holds the slices of a case, at any depth.

    Its label map is a DICOM SEG, `labels/CASE.dcm`, or the only one in `labels/CASE` or among the slices. Without a
    folder `images`, each folder of `root` is a case; if `root` holds slices itself, it is one. A value of the label
    maps is a SegmentLabel, which is matched by name. If segments overlap, they are regions.

    A case is called as its folder, but by a hash if a field of the patient is in that name. Cases with one PatientID
    are of one patient, who is called as the first of them.

    Attributes:
        series: the SeriesInstanceUID to read of a case, for folders with several. Otherwise it is the one that the
            segmentation refers to, else the one with the most slices.
        labels: names of classes as in SegmentLabel, background first; None: all that the segmentations have.
    """

    loader: ClassVar[str] = "dicom"

    series: dict[str, str] = Field(default_factory=dict)

    def splits(self) -> Mapping[str, Sequence[Any]]:
        """Returns the only split, `test`: the cases by their folders' names."""
        if strange := sorted(self.series.keys() - self._found.keys()):
            raise DataError(
                f"{self.name}: series: expected cases of {few([*self._found])}, got {strange[0]}: fix the name"
            )
        return {"test": [entry for entry, _ in self._found.values()]}

    @cached_property
    def _found(self) -> dict[str, tuple[CaseFiles, _Found]]:
        """Each case as it is shown, and its files."""
        root = self._root()
        if not storage.is_local(root):
            raise MissingDataError(f"{root}: expected a folder of this machine, as DICOM is not fetched: copy it here")
        top = Path(storage.local_path(root))
        cases: dict[str, tuple[CaseFiles, _Found]] = {}
        patients: dict[str, str] = {}
        for folder, labels in self._places(top):
            files = _below(folder, DEPTH)
            segmentations = [path for path in labels if path.is_file()] or dicom.label_files(files)
            if not files and not segmentations and not (folder.parent == top / IMAGES and folder.is_dir()):
                continue  # something else than a case
            told = files or segmentations
            fields = dicom.patient_fields(told)
            is_hashed = dicom.names_patient(folder.name, fields)
            first = next((path for path in told if path.is_file()), folder)
            case_id = f"case-{digest(storage.sha256(str(first)))[:8]}" if is_hashed else folder.name
            patient = patients.setdefault(fields.get("PatientID", case_id), self.patient_of(case_id))
            entry = CaseFiles(
                case_id=case_id,
                patient_id=self.patient_of(case_id, patient),
                image=str(folder if folder == top else folder.with_name(case_id)),
                label=str(top / LABELS / case_id) if segmentations else None,
            )
            found = _Found(files=tuple(files), segmentations=tuple(segmentations), is_called_otherwise=is_hashed)
            if case_id in cases:
                raise DataError(f"{root}: expected different cases, got {case_id} twice: remove one")
            cases[case_id] = entry, found
        if not cases:
            raise MissingDataError(
                f"{root}: expected {IMAGES}/CASE with the slices of a series, found none: check `root`"
            )
        return cases

    def _places(self, top: Path) -> Iterator[tuple[Path, Sequence[Path]]]:
        """Yields each case's folder, and the files that its segmentation may be, beside those of the folder."""
        place = top / IMAGES if (top / IMAGES).is_dir() else top
        folders = _folders(place) if place.is_dir() else []
        folders = [folder for folder in folders if folder.name != LABELS or place != top]
        if place == top and _below(top, 1):
            folders = [top]
        elif self.reference == "label":  # label maps without an image are cases that lack it
            labelled = (path.split("/")[0].removesuffix(".dcm") for path in storage.list_tree(str(top / LABELS), 3))
            folders = sorted({*folders, *(place / name for name in labelled)})
        for folder in folders:
            yield folder, (top / LABELS / f"{folder.name}.dcm", *_below(top / LABELS / folder.name, 2))

    def slices(self, ref: CaseRef) -> dicom.Series:
        """Returns the header of a case's series."""
        return self._image_header(self._entry(ref.case_id))

    def remarks(self, patients: Sequence[str]) -> Iterator[str]:
        """Yields lines as `ListedFolder.remarks` does, and one on cases that are called by a hash."""
        yield from super().remarks(patients)
        if count := sum(found.is_called_otherwise for _, found in self._found.values()):
            yield (
                f"{self.name}: {count} cases are called by a hash, as the names of their folders hold a field of the "
                "patient: rename the folders to choose other names"
            )

    def _case_id(self, line: Any) -> str:
        return str(line.case_id)

    def _parsed(self, line: Any) -> CaseFiles:
        if self.reference == "label" and line.label is None:
            raise UnlabelledError(
                f"{self._root()}: expected a segmentation of case {line.case_id}, found no {LABELS}/CASE.dcm: add it, "
                "leave the case out by `cases`, or set reference: prediction"
            )
        return line

    def _segmentation(self, entry: CaseFiles) -> Path:
        """Returns the only SEG of a case."""
        files = self._found[entry.case_id][1].segmentations
        if len(files) != 1:
            raise DataError(
                f"{entry.label}: expected one segmentation of case {entry.case_id}, got {len(files)}: put the one to "
                f"score against into {LABELS}/CASE.dcm"
            )
        return files[0]

    def _series_of(self, case_id: str) -> str | None:
        """Returns the SeriesInstanceUID that is asked for."""
        return self.series.get(case_id)

    def _image_header(self, entry: CaseFiles) -> dicom.Series:
        found = self._found[entry.case_id][1]
        if not found.files:
            raise MissingDataError(
                f"{entry.image}: expected the slices of case {entry.case_id}, found none: add them, or leave the case "
                "out by `cases`"
            )
        named = self._series_of(entry.case_id)
        segmentation = self._segmentation(entry) if entry.label else None
        return dicom.read_series(found.files, Path(entry.image), named, segmentation)

    def _label_header(self, entry: CaseFiles, image: Header) -> dicom.Segmentation:
        if not isinstance(image, dicom.Series):
            raise TypeError(f"{image.path}: expected the header of a series")
        return dicom.read_segmentation(self._segmentation(entry), image, Path(str(entry.label)))

    def _absent(self, entry: CaseFiles) -> list[str]:
        return [] if self._found[entry.case_id][1].files else [entry.image]

    def _check_lengths(self, entry: CaseFiles) -> None:
        """Raises DataError for a truncated segmentation; headers tell of slices."""
        if entry.label:
            dicom.check_segmentation(self._segmentation(entry), Path(entry.label))

    def _fingerprint(self, entry: CaseFiles, image: Header | None = None) -> str:
        series = image if isinstance(image, dicom.Series) else self._image_header(entry)
        files = [*series.files, *([self._segmentation(entry)] if entry.label else [])]
        return digest([storage.sha256(str(path)) for path in files])

    @cached_property
    def _segments(self) -> tuple[str, ...]:
        """Names of all cases' segments, those of `labels` first, each once."""
        names = dict[str, str]()
        for entry, _ in self._found.values():
            if entry.label:
                for name in dicom.segment_names(self._segmentation(entry), Path(entry.label)).values():
                    names.setdefault(plain(name), name)
        wanted = [plain(name) for name in self.labels[1:]] if isinstance(self.labels, tuple) else []
        return tuple(sorted(names.values(), key=lambda name: _place(plain(name), wanted)))

    def _listed_labels(self) -> Mapping[int, str]:
        if self.reference == "prediction" or not any(entry.label for entry, _ in self._found.values()):
            raise MissingDataError(
                f"{self.name}: expected `labels`, the number of the model's classes or their names, as neither scans "
                "nor the model's file state them, got none: give them"
            )
        return dict(enumerate(("background", *self._segments)))

    def _regions(self) -> Mapping[str, tuple[int, ...]]:
        if self.regions or self.reference == "prediction" or not self._overlap:
            return self.regions or {}
        return {name: (k,) for k, name in enumerate(self._exclusive_classes().names) if k}

    @cached_property
    def _overlap(self) -> bool:
        """True if segments of different classes share a voxel in any case."""
        of_value = self._exclusive_classes().of_value
        classes = {plain(name): of_value.get(value, 0) for value, name in enumerate(("background", *self._segments))}
        shared = (
            dicom.overlaps(self._segmentation(entry), Path(entry.label))
            for entry, _ in self._found.values()
            if entry.label
        )
        return any(
            len({classes[plain(name)] for name in names} - {0, IGNORED}) > 1 for sets in shared for names in sets
        )

    def _read_label(self, entry: CaseFiles, label: Header) -> npt.NDArray[np.uint8]:
        if not isinstance(label, dicom.Segmentation):
            raise TypeError(f"{label.path}: expected the header of a segmentation")
        names = dicom.segment_names(label.file, label.path)
        values = {plain(name): value for value, name in enumerate(self._segments, 1)}
        of_value = self.classes_of_labels.of_value
        classes = np.zeros(label.shape, np.uint8)
        ignored = np.zeros(label.shape, bool)
        for number, mask in dicom.masks(label):
            value = values[plain(names[number])]
            if value not in of_value:
                raise DataError(
                    f"{label.path}: expected segments of {few(self.class_names[1:])}, got {names[number]!r}: name all "
                    "in `labels`, or say the class of each by `label_map`"
                )
            k = of_value[value]
            if k == IGNORED:
                ignored |= mask
            elif self.has_regions:
                classes[mask] |= k
            elif k:
                if count := int(np.count_nonzero(classes[mask] * (classes[mask] != k))):
                    raise DataError(
                        f"{label.path}: expected segments that do not overlap, as the header says, got {count} voxels "
                        f"of {names[number]!r} in another: store the segmentation anew"
                    )
                classes[mask] = k
        classes[ignored] = IGNORED
        return classes


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _below(folder: Path, depth: int) -> list[Path]:
    """Returns the files of a folder that may be DICOM."""
    files = [folder / name for name in storage.list_tree(str(folder), depth)]
    return [path for path in files if path.suffix.lower() not in dicom.NO_SLICES]


def _place(name: str, wanted: Sequence[str]) -> int:
    return wanted.index(name) if name in wanted else len(wanted)
