"""Folders in the layout of the Medical Segmentation Decathlon: a JSON list beside NIfTI images and label maps.

Antonelli et al., Nature Communications 2022, arXiv:2106.05735. Synapse (BTCV) and ACDC are used in this layout too.
"""

import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, field_validator

from freqbench import storage
from freqbench.data import nifti
from freqbench.data.base import Dataset
from freqbench.data.preprocess import Intensity, parse_intensity, prepare, prepared_shape
from freqbench.errors import DataError, UserError, unknown
from freqbench.identity import digest
from freqbench.types import Case, CaseRef

# To be raised with every change of what `load` makes of the same files.
REVISION = 1

_SPLIT = re.compile(r"(?P<key>\w+)(?:\[(?P<start>-?\d*):(?P<stop>-?\d*)\])?")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")

Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ClassName = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class _Entry:
    """One line of the list: the case's name and its files as paths or URIs."""

    case_id: str
    patient_id: str
    image: str
    label: str


class Decathlon(Dataset):
    """Any folder with a Decathlon JSON list.

    Entries are dicts with `image` and `label` (and `patient`, where several cases share one), or bare image names, in
    `imagesTr` if they name no folder. The label map of a bare `imagesTs/a.nii.gz` is `labelsTs/a.nii.gz`, else
    `labelsTr/a.nii.gz`, either also as `a_gt.nii.gz`. Counters in lists (`numTest` ...) are often wrong and not read. A
    case is called by its image's file name; of `patient001_frame01` the patient is `patient001`.

    Attributes:
        root: folder or URI; `~` and environment variables such as `${FREQBENCH_DATA}` are filled in.
        list_file: `list` in job files: the JSON list, in `root` or absolute.
        split: a key of the list, or a slice of one: `validation[0:30]`.
        labels: names of all classes, background first; or how many; None takes the list's own `labels`.
        spacing: millimetres a voxel of the grid to resample to; None keeps each file's.
        intensity: see `preprocess.parse_intensity`; the default suits MR, `{window: [-175, 250]}` is the papers' CT.
        crop_foreground: cut to the box of voxels above 0 after scaling.
    """

    # By its own name too, so that a dumped dataset can be validated again.
    model_config = ConfigDict(populate_by_name=True)

    loader: ClassVar[str] = "decathlon"

    root: str
    list_file: str = Field("dataset.json", alias="list")
    labels: Annotated[int, Field(ge=2, le=256)] | tuple[ClassName, ...] | None = None
    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None
    intensity: Intensity = "percentile"
    crop_foreground: bool = True

    @field_validator("intensity", mode="before")
    @classmethod
    def _known_intensity(cls, value: object) -> object:
        parse_intensity(value)
        return value

    @field_validator("labels")
    @classmethod
    def _two_classes_or_more(cls, value: int | tuple[str, ...] | None) -> int | tuple[str, ...] | None:
        if isinstance(value, tuple) and not (2 <= len(value) <= 256 and len(set(value)) == len(value)):
            raise ValueError("expected 2 to 256 different class names, background first")
        return value

    @property
    def class_names(self) -> tuple[str, ...]:
        """From `labels`, else from the list file."""
        if isinstance(self.labels, tuple):
            return self.labels
        if isinstance(self.labels, int):
            return ("background", *(f"class {index}" for index in range(1, self.labels)))
        listed = self._content().get("labels")
        count = len(listed) if isinstance(listed, dict) else 0
        if not isinstance(listed, dict) or count < 2 or set(listed) != {str(index) for index in range(count)}:
            raise DataError(
                f"{self._list_path()}: expected `labels` with the names of classes 0, 1, ..., got {listed!r}: "
                "give `labels` in the job file"
            )
        return tuple(str(listed[str(index)]) for index in range(count))

    def recipe(self) -> dict[str, Any]:
        """Loader, revision, preprocessing and classes."""
        scaling = parse_intensity(self.intensity)
        return {
            "loader": self.loader,
            "revision": REVISION,
            "spacing": self.spacing,
            "intensity": [scaling.kind, scaling.low, scaling.high],
            "crop_foreground": self.crop_foreground,
            "labels": self.class_names,
        }

    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        """The cases of a list's key or of a slice of it; reads lists, headers and content hashes, no voxels.

        Raises:
            DataError: list, split, file, header or case id is not what it should be.
        """
        entries = self._entries(split or self.split)
        chosen = [entries[case_id] for case_id in self._chosen(list(entries))]
        headers = [self._headers(entry) for entry in chosen]
        refs = tuple(
            CaseRef(
                case_id=entry.case_id,
                patient_id=entry.patient_id,
                fingerprint=self._fingerprint(entry),
                shape=prepared_shape(image.shape, image.affine, self.spacing),
            )
            for entry, (image, _) in zip(chosen, headers, strict=True)
        )
        seen: dict[str, str] = {}
        for ref in refs:
            first = seen.setdefault(ref.fingerprint, ref.case_id)
            if first != ref.case_id:  # one identity for two cases: their records would replace each other
                raise DataError(
                    f"{self._list_path()}: expected different cases, got {first} and {ref.case_id} with the same "
                    "files: remove one"
                )
        return refs

    def load(self, ref: CaseRef) -> Case:
        """Read, check and preprocess one case, of whichever key of the list.

        Raises:
            DataError: the files are damaged or changed, or their voxels are not what they should be.
        """
        entry = self._entry(ref.case_id)
        image, label = self._headers(entry)
        if self._fingerprint(entry) != ref.fingerprint:
            raise DataError(f"{image.path}: expected the content that was planned, got another: plan the job again")
        prepared = prepare(
            nifti.read_image(image),
            nifti.read_label(label, self.num_classes),
            image.affine,
            spacing=self.spacing,
            scaling=parse_intensity(self.intensity),
            crop_foreground=self.crop_foreground,
            where=image.path,
        )
        return Case(
            ref=ref,
            image=prepared.image,
            label=prepared.label,
            spacing=prepared.spacing,
            affine=prepared.affine,
            native_range=prepared.native_range,
            original_spacing=image.spacing,
        )

    def _headers(self, entry: _Entry) -> tuple[nifti.Header, nifti.Header]:
        """The checked headers of image and label map."""
        image = nifti.read_header(_file(entry.image, f"the image of case {entry.case_id}"))
        label = nifti.read_header(_file(entry.label, f"the label map of case {entry.case_id}"))
        label.check_same_grid(image)
        nifti.check_size(image.path, prepared_shape(image.shape, image.affine, self.spacing), "a resampled volume")
        return image, label

    @staticmethod
    def _fingerprint(entry: _Entry) -> str:
        return digest([storage.sha256(entry.image), storage.sha256(entry.label)])

    def _list_path(self) -> str:
        return _join(_expanded(self.root, self.name), _expanded(self.list_file, self.name))

    def _content(self) -> dict[str, Any]:
        """The list file's content."""
        path = self._list_path()
        if not storage.exists(path):
            raise DataError(f"{self.name}: expected the list {path}, found none: check `root` and `list`")
        return _read_list(path, storage.sha256(path))

    def _lines(self, split: str) -> list[Any]:
        """What the list holds under a key or in a slice of it."""
        found = _SPLIT.fullmatch(split)
        if not found:
            raise DataError(f"{self.name}: expected a split like validation or validation[0:30], got {split!r}")
        content = self._content()
        keys = [key for key, value in content.items() if isinstance(value, list)]
        if found["key"] not in keys:
            raise DataError(f"{self._list_path()}: {unknown('split', found['key'], keys)}")
        start, stop = (int(bound) if bound else None for bound in (found["start"], found["stop"]))
        lines: list[Any] = content[found["key"]][start:stop]
        if not lines:
            raise DataError(f"{self._list_path()}: expected cases in split {split}, got none: choose one of {keys}")
        return lines

    def _entries(self, split: str) -> dict[str, _Entry]:
        """The entries of a key or slice by case id, in the list's order."""
        entries: dict[str, _Entry] = {}
        for line in self._lines(split):
            entry = self._parsed(line)
            if entry.case_id in entries:
                raise DataError(
                    f"{self._list_path()}: expected each case of {split} once, got {entry.case_id} twice: remove one"
                )
            entries[entry.case_id] = entry
        return entries

    def _entry(self, case_id: str) -> _Entry:
        """A case's entry: of `split` if it stands there, else of the first key of the list that holds it."""
        keys = [key for key, value in self._content().items() if isinstance(value, list) and value]
        for split in (self.split, *keys):
            for line in self._lines(split):
                if nifti.stem(self._image_of(line)) == case_id:
                    return self._parsed(line)
        raise DataError(f"{self._list_path()}: expected case {case_id}, got a list without it: plan the job again")

    def _image_of(self, line: Any) -> str:
        """An entry's image as the list names it."""
        image = line.get("image") if isinstance(line, dict) else line
        if not isinstance(image, str) or not image:
            raise DataError(f"{self._list_path()}: expected {{image, label}} or an image's name, got {line!r}")
        return image if isinstance(line, dict) or "/" in image else f"imagesTr/{image}"

    def _parsed(self, line: Any) -> _Entry:
        root, image = _expanded(self.root, self.name), self._image_of(line)
        label = line.get("label") if isinstance(line, dict) else _label_beside(root, image)
        if not isinstance(label, str) or not label:
            raise DataError(f"{self._list_path()}: expected a label map for {image}, got none: choose a labelled split")
        case_id = nifti.stem(image)
        patient = line.get("patient") if isinstance(line, dict) else None
        return _Entry(
            case_id=case_id,
            patient_id=str(patient or case_id.partition("_frame")[0]),
            image=_join(root, image),
            label=_join(root, label),
        )


@lru_cache(maxsize=64)
def _read_list(path: str, content_sha256: str) -> dict[str, Any]:
    """A list file's content, parsed once for as long as it stays."""
    try:
        content = json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path}: expected a JSON list of cases, got no JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(content).__name__}: give a Decathlon list")
    return content


def _label_beside(root: str, image: str) -> str | None:
    """The label map of a bare image name, if there is one."""
    path = PurePosixPath(image)
    suffix = path.name.removeprefix(nifti.stem(image))
    for folder in (path.parent.name.replace("images", "labels"), "labelsTr"):
        for name in (path.name, f"{nifti.stem(image)}_gt{suffix}"):
            label = str(path.parent.parent / folder / name)
            if label != image and storage.exists(_join(root, label)):
                return label
    return None


def _expanded(text: str, name: str) -> str:
    """`~` and environment variables filled in."""

    def value(found: re.Match[str]) -> str:
        variable = found[1] or found[2]
        if variable not in os.environ:
            raise DataError(f"{name}: {text}: expected the environment variable {variable}, found none: set it")
        return os.environ[variable]

    return str(Path(filled).expanduser()) if (filled := _VARIABLE.sub(value, text)).startswith("~") else filled


def _join(root: str, path: str) -> str:
    """A path below the root, itself where it is absolute."""
    return path if path.startswith("/") or "://" in path else storage.join(root, path.removeprefix("./"))


def _file(path: str, what: str) -> Path:
    try:
        return storage.fetch(path)
    except UserError:
        raise DataError(f"{path}: expected {what}, found no file: check `root` and the list") from None
