"""Reads folders of image files whose cases are listed: splits by key, slices of them, surveys of their files."""

import abc
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from freqbench.core import names
from freqbench.core.documents import json_of
from freqbench.core.errors import DataError, MissingDataError, UserError, unknown
from freqbench.core.files import storage
from freqbench.core.input_space import Intensity, Preprocess, file_codes
from freqbench.core.types import IGNORED, NO_LABEL, Case, CaseRef, NativeCase, Shape, Spacing, triple
from freqbench.data import cache, image_files
from freqbench.data.base import ClassName, Dataset
from freqbench.data.headers import Header, spacing_of
from freqbench.data.intensities import scale_warnings
from freqbench.data.labels import Reading, classes_of, group_regions
from freqbench.data.nsd_tolerances import organ_tolerances
from freqbench.data.preprocess import check_room, prepared_shape
from freqbench.data.scans import ListedCase, Scan, Stated, answer
from freqbench.ops.classes import Classes
from freqbench.pipelines import AnySpace, Pipeline

if TYPE_CHECKING:
    from torch import Tensor

REVISION = 1  # raise it with every change of the output of `load` for the same files
BY_NAME = "its segments become the classes of their names, whatever their numbers"
Class = Annotated[int, Field(ge=0, lt=IGNORED)]
AnyScan = TypeVar("AnyScan", bound=Scan)
Region = tuple[Annotated[int, Field(ge=1, lt=IGNORED)], ...]
_SPLIT = re.compile(r"(?P<key>\w+)(?:\[(?P<start>(-?[0-9]{1,9})?):(?P<stop>(-?[0-9]{1,9})?)\])?")
_OTHER_NAME = {"train": "training", "training": "train", "val": "validation", "validation": "val"}


class UnlabelledError(DataError):
    """Raised for a case without a label map in the list."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Survey of a split's files, by headers and lengths, and label maps if asked: voxels may still be damaged."""

    split: str
    num_cases: int  # cases in the list
    patients: list[str] = field(default_factory=list)  # the patient of each case with a label map in the list
    scans: list[Scan] = field(default_factory=list)  # cases with a label map in the list, present or not
    complete: list[str] = field(default_factory=list)  # ids of cases with whole files, sound headers and labels
    missing: list[str] = field(default_factory=list)  # files that do not exist
    unlabelled: list[str] = field(default_factory=list)  # ids of cases for which the list names no label map
    faults: list[str] = field(default_factory=list)  # one line per wrong header, length or label map
    notes: list[str] = field(default_factory=list)  # one line per label map that is read otherwise than it is stored


class ListedFolder(Preprocess, Dataset, abc.ABC):
    """A folder of images and label maps with a list of cases; a subclass gives its cases and what it states.

    Attributes:
        root: folder or URI; `~` and environment variables such as `${FREQBENCH_DATA}` are filled in.
        labels: names of all classes, background first; or their number; None takes the folder's names. Some of the
            folder's own names choose these classes: all others become background.
        label_map: class of labels in the files: `{4: 3}`; `{1: 0, 2: 1}` makes a task of one organ. Labels that it
            leaves out keep their number, if that is not the class of another; 0 stays background. `{4: 3, other:
            background}` makes background of all that are neither in it nor in `labels`.
        regions: classes that may overlap, each a name with the labels (after `label_map`) that make it up: `{whole
            tumour: [1, 2, 3], core: [1, 3], enhancing: [3]}`; for networks with one sigmoid output a region.
        ignore: labels whose voxels do not count, in losses, metrics and success: `[255]`.
        split: a key of the list, or a slice of one: `validation[0:30]`; `train` and `training` are the same, as are
            `val` and `validation`.
    """

    root: str
    labels: Annotated[int, Field(ge=2, le=256)] | tuple[ClassName, ...] | None = None
    label_map: dict[int | Literal["other"], Class | Literal["background"]] | None = None
    regions: Annotated[dict[ClassName, Region], Field(min_length=1)] | None = None
    ignore: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _intensity_of_the_entry(cls, values: Any) -> Any:
        usual = cls._usual_intensity(values) if isinstance(values, dict) and values.get("intensity") is None else None
        return values if usual is None else {**values, "intensity": usual}

    @classmethod
    def _usual_intensity(cls, values: Mapping[str, Any]) -> Intensity | None:
        """Returns the `intensity` of an entry that gives none; None: the field's default."""

    @field_validator("labels")
    @classmethod
    def _two_classes_or_more(cls, value: int | tuple[str, ...] | None) -> int | tuple[str, ...] | None:
        if isinstance(value, tuple) and not (2 <= len(value) <= 256 and len(set(value)) == len(value)):
            raise ValueError("expected 2 to 256 different class names, background first")
        return value

    @model_validator(mode="after")
    def _maps_labels_that_are_read(self) -> "ListedFolder":
        if self.reference == "prediction" and (self.label_map or self.ignore):
            key = "label_map" if self.label_map else "ignore"
            raise ValueError(f"expected no {key} beside reference: prediction, which reads no label maps: leave it out")
        for value, k in (self.label_map or {}).items():
            if (value == "other") != (k == "background"):
                got = f"got `{value}: {k}`: change it"
                raise ValueError(f"label_map: expected `other: background`, and a class's number for each label, {got}")
        return self

    @abc.abstractmethod
    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        """Returns the cases of every split, in order; raises DataError if the list is missing or unreadable."""

    @abc.abstractmethod
    def stated_labels(self) -> Stated:
        """Returns the facts of label maps in the files' own list; raises DataError if it is missing or unreadable."""

    @property
    def source(self) -> str:
        """The file or folder that lists the cases, for errors."""
        return self._root()

    def _readable_labels(self) -> Stated:
        """Returns the list's facts of label maps; of an unreadable list its error, as the job's keys may do without."""
        try:
            return self.stated_labels()
        except DataError as error:
            return Stated(problem=error)

    def _regions(self, stated: Stated, classes: Reading) -> Mapping[str, tuple[int, ...]]:
        """Returns the job's regions, else those of the list if the job names no classes, else classes that overlap."""
        if self.regions:
            return self.regions
        if stated.regions and self.labels is None:
            if self.label_map is not None:
                return stated.regions
            numbers = {value: k for k, value in enumerate(stated.names)}  # labels may have gaps, classes have none
            return {name: tuple(map(numbers.__getitem__, values)) for name, values in stated.regions.items()}
        if self.reference == "prediction":
            return {}
        for values in stated.shared:
            together = {classes.of_value.get(value, 0) for value in values} - {0, IGNORED}
            if len(together) > 1:
                return {name: (k,) for k, name in enumerate(classes.names) if k}
        return {}

    @property
    def reading(self) -> Reading:
        """The classes or regions, and the class, or the code of regions, of each label in the files."""
        return self._reading_by(self._readable_labels())

    def _reading_by(self, stated: Stated) -> Reading:
        # The number of labels, where nothing names them.
        count = 1 + max(chain.from_iterable(self.regions.values()), default=1) if self.regions else None
        labels = self.labels or count
        if labels is None and stated.problem:
            raise stated.problem
        if self.reference == "prediction":
            classes = classes_of(self.name, {}, labels or tuple(stated.names.values()), None)
        else:
            ignore = self.ignore if "ignore" in self.model_fields_set else stated.ignored
            labels = self.labels or (None if stated.names else count)
            classes = classes_of(self.name, stated.names, labels, self.label_map, ignore)
        regions = self._regions(stated, classes)
        classes = group_regions(self.name, classes, regions) if regions else classes
        if broken := [name for name in classes.names if not name.isprintable() or not name.strip()]:
            raise DataError(f"{self.name}: expected class names of Unicode text, got {broken[0]!a}: fix their list")
        return classes

    @property
    def classes(self) -> Classes:
        """The job's or the folder's classes or regions, of which larger ones are drawn first."""
        stated = self._readable_labels()
        reading = self._reading_by(stated)
        tolerance = stated.tolerance_mm
        organs = reading.names[1:]
        sizes = {number: len(region) for number, region in enumerate(reading.regions, 1)}
        codes = reading.of_value.items() if sizes else ()
        return Classes(
            names=reading.names,
            overlap=bool(sizes),
            tolerances_mm=organ_tolerances(organs) if tolerance is None else (tolerance,) * len(organs),
            ignored=reading.ignored,
            stated={value: code for value, code in codes if code != IGNORED},
            drawn=tuple(sorted(sizes, key=lambda number: -sizes[number])),
        )

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels by the folder's list; else none."""
        return self._readable_labels().channels

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines on labels that become other classes, or do not count, for `plan`, `run` and `doctor`."""
        return self.reading.notes(self.name)

    @cached_property
    def num_channels(self) -> int:
        """Channels of every image, read from the header of the first case."""
        lines = self._lines(self.split)
        return self._read_line(lines[next(iter(self.chosen([*lines])), next(iter(lines)))]).image().num_channels

    @property
    def space(self) -> Preprocess:
        """Space of the dataset's own preprocessing keys."""
        return Preprocess(**{name: getattr(self, name) for name in Preprocess.model_fields})

    def recipe(self) -> dict[str, Any]:
        """Returns loader, revision, preprocessing and classes; also the class of each label, if one has another."""
        own = {"loader": self.loader, "revision": REVISION, **self.space.identity(), "labels": self.class_names}
        tolerances = self.classes.tolerances_mm
        usual = organ_tolerances(self.class_names[1:])
        own |= {} if tolerances == usual else {"tolerances_mm": tolerances}  # of a list's task
        return own | self.reading.recipe()

    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        """Returns the cases of a `split` as `Dataset.refs` does; reads lists, headers and content hashes."""
        lines = self._lines(split or self.split)
        scans = [self._read_line(lines[case_id]) for case_id in self.chosen([*lines])]
        storage.prefetch([*chain.from_iterable(scan.files() for scan in scans)])
        images = [self._headers(scan)[0] for scan in scans]
        for image in images:
            if image.num_channels != images[0].num_channels:
                raise DataError(
                    f"{image.path}: expected as many channels as {images[0].path.name} has, {images[0].num_channels}, "
                    f"got {image.num_channels}: give every case the same, or leave it out by `cases`"
                )
        refs: dict[str, CaseRef] = {}
        for scan, image in zip(scans, images, strict=True):
            grid, axes = _grid(image)
            fingerprint = scan.fingerprint(image)
            if first := refs.get(fingerprint):  # of one identity, the records of the two would replace each other
                got = f"got {first.case_id} and {scan.case_id} with the same files: remove one"
                raise DataError(f"{self.source}: expected different cases, {got}")
            sides = prepared_shape(*grid, self.space, axes)
            refs[fingerprint] = CaseRef(
                case_id=scan.case_id,
                patient_id=scan.patient,
                fingerprint=fingerprint,
                shape=sides,
                grid=grid,
                axes=axes,
            )
        return tuple(refs.values())

    def load(self, ref: CaseRef, space: AnySpace | None = None) -> Case:
        """Loads case `ref` in a `space` as `Dataset.load` does, or from the node's cache of preprocessed volumes."""
        self._require_content(self._scan(ref.case_id), ref)
        wanted = space or self.space
        asked = {"case": self.case_key(ref), "space": wanted.identity()}
        code = wanted.code if isinstance(wanted, Pipeline) else None  # may have read a file that no identity covers
        stays = lambda: code is None or not code.opened  # noqa: E731
        return cache.cached_case(ref, lambda: super(ListedFolder, self).load(ref, wanted), stays=stays, **asked)

    def native(self, ref: CaseRef) -> NativeCase:
        """Reads case `ref` as `Dataset.native` does; also raises DataError for files changed since the job was
        planned."""
        import torch

        scan = self._scan(ref.case_id)
        image, label = self._headers(scan)
        self._require_content(scan, ref, image)
        classes = np.full(image.shape, 0 if label else NO_LABEL, np.uint8)
        if label:
            classes[label.place_in(image)] = scan.classes(label, self.reading)
        voxels = image_files.read_image(image)
        self._require_content(scan, ref, image)  # once more, as another file may have come into its place
        values = partial(_values_of, image, label) if label and scan.reads_labels else None
        return NativeCase(
            ref=ref,
            image=torch.from_numpy(voxels),
            label=torch.from_numpy(classes)[None],
            affine=image.affine,
            spacing=image.spacing,
            stated=image.stated,
            source=str(image.path),
            values=values,
        )

    def faults(self, ref: CaseRef, space: AnySpace) -> Iterator[str]:
        """Yields one line per problem with case `ref` in a space: what `native` refuses, unfilled headers,
        intensities."""
        try:
            native = self.native(ref)
            scan = self._scan(ref.case_id)
            image, label = self._headers(scan)
        except DataError as error:
            yield str(error)
            return
        if image.unfilled:
            advice = "state them if they differ, else `spacing` and distances in mm are wrong"
            got = f"got 1 x 1 x 1 without {image.unfilled}, as in a header that nobody filled: {advice}"
            yield f"{image.path}: expected the sides of voxels, {got}"
        if isinstance(space, Preprocess):
            yield from (f"{native.source}: {line}" for line in scale_warnings(native, space))
        if label and scan.reads_labels and (note := image_files.rounding(label)):
            yield note

    def survey(self, split: str, with_labels: bool = False) -> Survey:
        """Surveys a split for complete cases and missing parts, by headers, and label maps (not masks) if
        `with_labels`."""
        lines = self._list_cases(split)
        survey = Survey(split=split, num_cases=len(lines))
        for line in lines:
            try:
                scan = self._read_line(line)
            except UnlabelledError:
                survey.unlabelled.append(line.case_id)
                continue
            survey.patients.append(scan.patient)
            survey.scans.append(scan)
            if absent := scan.absent():
                survey.missing.extend(absent)
                continue
            try:
                _, label = self._headers(scan)
                scan.check()
                if label and with_labels and scan.reads_labels:
                    scan.classes(label, self.reading)
                    survey.notes.extend(filter(None, [image_files.rounding(label)]))
                survey.complete.append(scan.case_id)
            except DataError as error:
                survey.faults.append(str(error))
        return survey

    def listed_cases(self) -> int | None:
        """Returns the number of cases in the split's list; None if the list does not exist."""
        try:
            return len(self._list_cases(self.split))
        except MissingDataError:
            return None

    def _list_cases(self, split: str) -> Sequence[ListedCase]:
        if not (match := _SPLIT.fullmatch(split)):
            raise DataError(f"{self.name}: expected a split like validation or validation[0:30], got {split!r}")
        splits = self.splits()
        key = match["key"] if match["key"] in splits else _OTHER_NAME.get(match["key"], match["key"])
        if key not in splits:
            raise DataError(f"{self.source}: {unknown('split', match['key'], splits)}")
        start, stop = (int(bound) if bound else None for bound in (match["start"], match["stop"]))
        if not (lines := splits[key][start:stop]):
            others = ", ".join(name for name, cases in splits.items() if cases and name != key)
            advice = f"choose one of {others}" if others else "fill the list, or give another"
            raise DataError(f"{self.source}: expected cases in split {split}, got none: {advice}")
        return lines

    def _lines(self, split: str) -> dict[str, ListedCase]:
        """Returns the lines of a split by their cases; raises DataError for a case that is listed twice."""
        lines: dict[str, ListedCase] = {}
        for line in self._list_cases(split):
            if line.case_id in lines:
                raise DataError(f"{self.source}: expected each case of {split} once, got {line.case_id} twice: drop it")
            lines[line.case_id] = line
        return lines

    def _scan(self, case_id: str) -> Scan:
        """Returns a case: of `split` if it holds the case, else of the first key of the list that does."""
        for split in (self.split, *(key for key, lines in self.splits().items() if lines)):
            for line in self._list_cases(split):
                if line.case_id == case_id:
                    return self._read_line(line)
        raise DataError(f"{self.source}: expected case {case_id}, got a list without it: plan the job again")

    def _need_label(self, scan: AnyScan, what: str, where: str) -> AnyScan:
        """Returns a case; raises UnlabelledError if it lacks its label map (`what`, at `where`) and these are read."""
        if self.reference == "label" and not scan.has_label:
            advice = "add it, leave the case out by `cases`, or set reference: prediction"
            raise UnlabelledError(f"{self._root()}: expected {what} of case {scan.case_id}, found no {where}: {advice}")
        return scan

    def _read_line(self, line: ListedCase) -> Scan:
        """Returns a line's case with its patient, and under `reference: prediction` without its label map."""
        scan = line.scan()
        scan = replace(scan, patient=self.patient_of(scan.name, scan.patient))
        try:
            names.require_name(scan.case_id, "case")
        except UserError as error:
            raise DataError(f"{scan.where}: {error}") from None
        return scan if self.reference == "label" else replace(scan, **scan.unlabelled)

    def _require_content(self, scan: Scan, ref: CaseRef, image: Header | None = None) -> None:
        if scan.fingerprint(image) != ref.fingerprint:
            raise DataError(f"{scan.where}: expected the content that was planned, got another: plan the job again")

    def _headers(self, scan: Scan) -> tuple[Header, Header | None]:
        image = scan.image()
        label = scan.label(image) if scan.has_label else None
        if label and label.segments and self.reading.file_classes(label) != self.reading.of_value:
            self.guesses.setdefault(BY_NAME, {})[label.path.name] = None
        for header in (each for each in (image, label) if each and each.guess):
            self.guesses.setdefault(header.guess, {})[header.path.name] = None
        grid, axes = _grid(image)
        check_room(image.path, grid, self.space, image.num_channels, axes)
        return image, label

    def _root(self) -> str:
        return expand_variables(self.root, self.name)


def _grid(image: Header) -> tuple[tuple[Shape, Spacing], str]:
    """Returns shape and spacing of an image in RAS+, and the codes of its file's axes."""
    from nibabel.orientations import io_orientation

    order = np.argsort(io_orientation(image.affine)[:, 0]).tolist()
    shape = triple(image.shape[axis] for axis in order)
    sides = spacing_of(image.affine)
    return (shape, triple(sides[axis] for axis in order)), file_codes(image.affine)


def _values_of(image: Header, label: Header) -> "Tensor":
    """Reads the numbers `[1, H, W, D]` of a label map, on the grid of its image."""
    import torch

    values = np.zeros(image.shape, np.int32)
    values[label.place_in(image)] = image_files.read_integers(label, least=np.iinfo(np.int32).min)
    return torch.from_numpy(values)[None]


@storage.once_each_content
def _read_json(path: str) -> Any:
    try:
        return json_of(storage.fetch(path).read_bytes(), path)
    except UserError as error:
        raise DataError(f"{error}: fix the file") from None


def read_json(path: str, what: str) -> Any:
    """Returns the value in the JSON file at `path`; raises MissingDataError, which says `what` it is, without a file,
    DataError if it holds no JSON."""
    return answer(_read_json, path, what)


def read_object(path: str, what: str) -> dict[str, Any]:
    """Returns the object in the JSON file at `path`; raises as `read_json`, and if it holds another value than `what`
    was expected."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected {what}, got a JSON {type(content).__name__}: fix the file")
    return content


def expand_variables(text: str, name: str) -> str:
    """Fills variables in a `text` as `storage.filled_in` does, and raises MissingDataError for the dataset `name`."""
    try:
        return storage.filled_in(text, name)
    except UserError as error:
        raise MissingDataError(str(error)) from None


def join(root: str, path: str) -> str:
    """Returns a path below the root; an absolute path stays as it is."""
    return path if path.startswith("/") or "://" in path else storage.join(root, path.removeprefix("./"))
