"""Reads folders of DICOM: a folder of slices a case, and its segmentation as DICOM SEG."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from freqbench.core.errors import DataError, MissingDataError
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.types import IGNORED, CaseRef
from freqbench.data import dicom
from freqbench.data.headers import Header
from freqbench.data.labels import Reading, few, plain
from freqbench.data.loaders.folder import ListedFolder
from freqbench.data.patients import names_patient
from freqbench.data.scans import Labels, ListedCase, Scan, Stated

DEPTH = 5  # of folders of a case in which slices are looked for
IMAGES = "images"
LABELS = "labels"


@dataclass(frozen=True, kw_only=True)
class Slices(Scan):
    """A series of DICOM and its segmentation; errors and pages show no name of its files, which patients may be in."""

    unlabelled: ClassVar[Mapping[str, Any]] = {"segmentations": ()}
    image_shown: str
    label_shown: str
    found: tuple[Path, ...] = field(repr=False)  # the folder's files: slices and others
    segmentations: tuple[Path, ...] = field(repr=False)  # of which one is the label map
    series: str | None  # the SeriesInstanceUID that is asked for
    is_hashed: bool  # as its folder's name holds a field of the patient

    @property
    def where(self) -> str:
        """The folder as errors show it."""
        return self.image_shown

    def segmentation(self) -> Path:
        """Returns the only segmentation; raises DataError for several."""
        if len(self.segmentations) != 1:
            got = f"got {len(self.segmentations)}: put the one to score against into {LABELS}/CASE.dcm"
            raise DataError(f"{self.label_shown}: expected one segmentation of case {self.case_id}, {got}")
        return self.segmentations[0]

    def segment_names(self) -> Mapping[int, str]:
        """Returns the name of each segment by its number."""
        return dicom.segmentation.segment_names(self.segmentation(), Path(self.label_shown)) if self.has_label else {}

    def overlaps(self) -> frozenset[frozenset[str]]:
        """Returns the sets of segments that share a voxel."""
        shown = Path(self.label_shown)
        return dicom.segmentation.overlaps(self.segmentation(), shown) if self.has_label else frozenset()

    def files(self) -> tuple[str, ...]:
        """Returns the files of the folder, and the segmentations."""
        return tuple(map(str, (*self.found, *self.segmentations)))

    def image(self) -> dicom.series.Series:
        """Reads the header of the series."""
        if not self.found:
            advice = "add them, or leave the case out by `cases`"
            raise MissingDataError(f"{self.where}: expected the slices of case {self.case_id}, found none: {advice}")
        segmentation = self.segmentation() if self.has_label else None
        return dicom.series.read_series(self.found, Path(self.where), self.series, segmentation)

    def label(self, image: Header) -> dicom.segmentation.Segmentation:
        """Reads the header of the segmentation, whose frames lie on slices of the series with header `image`."""
        series = image if isinstance(image, dicom.series.Series) else self.image()
        return dicom.segmentation.read_segmentation(self.segmentation(), series, Path(self.label_shown))

    def absent(self) -> list[str]:
        """Returns the folder if there is no file in it."""
        return [] if self.found else [self.where]

    def check(self) -> None:
        """Raises DataError for a truncated segmentation; headers tell of slices."""
        if self.has_label:
            dicom.segmentation.check_segmentation(self.segmentation(), Path(self.label_shown))

    def fingerprint(self, image: Header | None = None) -> str:
        """Returns the digest of the slices of the series, whose header `image` saves reading it, and of the
        segmentation."""
        series = image if isinstance(image, dicom.series.Series) else self.image()
        files = [*dict.fromkeys(series.files), *([self.segmentation()] if self.has_label else [])]
        return digest([storage.sha256(str(path)) for path in files])

    def classes(self, label: Header, reading: Reading) -> Labels:
        """Returns the class `[H, W, D]` of each voxel's segment by `reading`, or the code of its regions if they
        overlap; `label` is the header of the segmentation."""
        if not isinstance(label, dicom.segmentation.Segmentation):
            raise TypeError(f"{label.path}: expected the header of a segmentation")
        names = self.segment_names()
        values = {plain(name): value for value, name in reading.value_names.items()}
        held = np.zeros(label.shape, np.uint8)
        ignored = np.zeros(label.shape, bool)
        for number, mask in dicom.segmentation.masks(label):
            if (value := values[plain(names[number])]) not in reading.of_value:
                got = f"got {names[number]!r}: name all in `labels`, or say the class of each by `label_map`"
                raise DataError(f"{label.path}: expected segments of {few(reading.names[1:])}, {got}")
            if (k := reading.of_value[value]) == IGNORED:
                ignored |= mask
            elif reading.regions:
                held[mask] |= k
            elif k:
                if count := int(np.count_nonzero(held[mask] * (held[mask] != k))):
                    got = f"got {count} voxels of {names[number]!r} in another: store the segmentation anew"
                    raise DataError(f"{label.path}: expected segments that do not overlap, as the header says, {got}")
                held[mask] = k
        held[ignored] = IGNORED
        return held


class DicomFolders(ListedFolder):
    """CT, MR and PET series as DICOM: `images/CASE` holds the slices of a case, at any depth, or an enhanced CT or MR.

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

    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        """Returns the only split, `test`: the cases by their folders' names."""
        if strange := sorted(self.series.keys() - self.scans.keys()):
            raise DataError(f"{self.name}: series: expected cases of {few([*self.scans])}, got {strange[0]}: fix it")
        what = "a segmentation", f"{LABELS}/CASE.dcm"
        return {"test": [ListedCase(name, partial(self._need_label, scan, *what)) for name, scan in self.scans.items()]}

    @cached_property
    def scans(self) -> dict[str, Slices]:
        """Each case, also without a segmentation."""
        root = self._root()
        if not storage.is_local(root):
            raise MissingDataError(f"{root}: expected a folder of this machine, as DICOM is not fetched: copy it here")
        top = Path(storage.local_path(root))
        scans: dict[str, Slices] = {}
        patients: dict[str, str] = {}
        for folder, labels in self._places(top):
            files = _dicom_files(folder, DEPTH)
            segmentations = [path for path in labels if path.is_file()] or dicom.files.label_files(files)
            if not files and not segmentations and not (folder.parent == top / IMAGES and folder.is_dir()):
                continue  # something else than a case
            told = files or segmentations
            fields = dicom.files.patient_fields(told)
            is_hashed = names_patient(folder.name, fields)
            first = next((path for path in told if path.is_file()), folder)
            case_id = f"case-{digest(storage.sha256(str(first)))[:8]}" if is_hashed else folder.name
            if case_id in scans:
                raise DataError(f"{root}: expected different cases, got {case_id} twice: remove one")
            patient = patients.setdefault(fields.get("PatientID", case_id), self.patient_of(case_id))
            shown = folder if folder == top else folder.with_name(case_id)
            scans[case_id] = Slices(
                case_id=case_id,
                patient=patient,
                image_shown=str(shown),
                label_shown=str(top / LABELS / case_id),
                found=tuple(files),
                segmentations=tuple(segmentations),
                series=self._series_of(case_id),
                is_hashed=is_hashed,
            )
        if not scans:
            raise MissingDataError(f"{root}: expected {IMAGES}/CASE with slices of a series, found none: check `root`")
        if count := sum(scan.is_hashed for scan in scans.values()):
            said = "cases are called by a hash, as the names of their folders hold a field of the patient"
            self.guesses[f"{count} {said}: rename the folders to choose other names"] = {}
        return scans

    def _places(self, top: Path) -> Iterator[tuple[Path, Sequence[Path]]]:
        """Yields each case's folder, and the files that its segmentation may be, beside those of the folder."""
        place = top / IMAGES if (top / IMAGES).is_dir() else top
        there = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
        folders = [each for each in there if each.name[0] != "." and (each.name != LABELS or place != top)]
        if place == top and _dicom_files(top, 1):
            folders = [top]
        elif self.reference == "label":  # label maps without an image are cases that lack it
            labelled = (path.split("/")[0].removesuffix(".dcm") for path in storage.list_tree(str(top / LABELS), 3))
            folders = sorted({*folders, *(place / name for name in labelled)})
        for folder in folders:
            yield folder, (top / LABELS / f"{folder.name}.dcm", *_dicom_files(top / LABELS / folder.name, 2))

    def slices(self, ref: CaseRef) -> dicom.series.Series:
        """Returns the header of the series of case `ref`."""
        return self.scans[ref.case_id].image()

    def _series_of(self, case_id: str) -> str | None:
        """Returns the SeriesInstanceUID that is asked for."""
        return self.series.get(case_id)

    @cached_property
    def _segments(self) -> tuple[str, ...]:
        """Names of all cases' segments, those of `labels` first, each once."""
        names: dict[str, str] = {}
        for scan in self.scans.values():
            for name in scan.segment_names().values():
                names.setdefault(plain(name), name)
        wanted = [plain(name) for name in self.labels[1:]] if isinstance(self.labels, tuple) else []
        return tuple(sorted(names.values(), key=lambda name: [*wanted, plain(name)].index(plain(name))))

    def stated_labels(self) -> Stated:
        """Returns the segments of all cases, which of them overlap, and CT as the name of the channel, if it is one."""
        if self.reference == "prediction" or not any(scan.has_label for scan in self.scans.values()):
            raise MissingDataError(
                f"{self.name}: expected `labels`, the number of the model's classes or their names, as neither scans "
                "nor the model's file state them, got none: give them"
            )
        names = dict(enumerate(("background", *self._segments)))
        channels = ("CT",) if next(iter(self.scans.values())).image().is_ct else ()
        values = {plain(name): value for value, name in names.items() if value}
        shared: set[frozenset[int]] = set()
        for scan in () if self.regions else self.scans.values():
            for together in scan.overlaps():
                shared.add(frozenset(values[plain(name)] for name in together))
        return Stated(names=names, shared=frozenset(shared), channels=channels)


def _dicom_files(folder: Path, depth: int) -> list[Path]:
    files = [folder / name for name in storage.list_tree(str(folder), depth)]
    return [path for path in files if path.suffix.lower() not in dicom.files.NO_SLICES]
