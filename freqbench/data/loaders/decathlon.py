"""Reads folders in the layout of the Medical Segmentation Decathlon: a JSON list beside images and label maps.
Antonelli et al., Nature Communications 2022, arXiv:2106.05735. Others share it, with published splits."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from freqbench.core.errors import DataError, MissingDataError
from freqbench.core.files import storage
from freqbench.core.limits import whole
from freqbench.data import image_files, nsd_tolerances
from freqbench.data.loaders.folder import ListedFolder, UnlabelledError, expand_variables, join, read_object
from freqbench.data.scans import ImageFiles, ListedCase, Stated

SPLITS = Path(__file__).parents[1] / "splits"
PUBLISHED = "published"
LIST = "the JSON list of cases"


class Decathlon(ListedFolder, populate_by_name=True):  # so that a dumped dataset can be validated again
    """Any folder with a Decathlon JSON list.

    Entries are dicts with `image` (a file, or a list of one per channel) and `label` (and `patient`, if several cases
    share one), or bare image names, in `imagesTr` if they name no folder. Paths are absolute, or below `root`, or, if
    the file is not there, beside the list. The label map of a bare `imagesTs/a.nii.gz` is `labelsTs/a.nii.gz`, else
    `labelsTr/a.nii.gz`; either may be named `a_gt.nii.gz`. Counters in lists are often wrong and are not read. A case
    has the name of its image's file, or the beginning that its channels share; where files in different folders have
    the same, the name of the folders that tell the cases apart (`case_00000/imaging.nii.gz`).

    Attributes:
        list_file: `list` in job files: the JSON list, in `root` or absolute.
        fold: the `validation` split has the entries of `training` with this number as `fold`, and `training` the others
            (as MONAI's BraTS lists); None: the splits are the file's lists.
    """

    loader: ClassVar[str] = "decathlon"

    list_file: str = Field("dataset.json", alias="list")
    fold: Annotated[int, Field(ge=0)] | None = None

    def stated_labels(self) -> Stated:
        """Returns the names of the list's labels, the tolerance of its Decathlon task and its modalities, if any."""
        content = self._content()
        listed = content.get("labels")
        pairs = listed.items() if isinstance(listed, dict) else ()
        named = {number: str(name) for text, name in pairs if (number := whole(str(text))) is not None}
        tolerance = nsd_tolerances.TASKS.get(str(content.get("name")).lower())
        channels = content.get("modality")
        kinds = [str(channels.get(str(k))) for k in range(len(channels))] if isinstance(channels, dict) else []
        about: dict[str, Any] = {"tolerance_mm": tolerance, "channels": tuple(kinds)}
        if len(named) >= max(2, len(pairs)) and 0 in named:
            return Stated(names=dict(sorted(named.items())), **about)
        got = f"got {listed!r}: give `labels` in the job file"
        problem = DataError(f"{self.source}: expected `labels` with the names of labels 0 (background), 1, ..., {got}")
        return Stated(problem=problem, **about)

    @property
    def source(self) -> str:
        """The list."""
        return join(self._root(), expand_variables(self.list_file, self.name))

    def _content(self) -> dict[str, Any]:
        return read_object(self.source, LIST)

    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        """Returns the file's lists by their keys, or those of a fold; raises DataError for a fold without entries."""
        splits: dict[str, list[ListedCase]] = {}
        for key, entries in self._entries().items():
            splits[key] = [self._line(each, f"line {i}") for i, each in enumerate(entries, 1)]
        return splits

    def _entries(self) -> Mapping[str, list[Any]]:
        listed = {key: value for key, value in self._content().items() if isinstance(value, list)}
        if self.fold is None:
            return listed
        lines = listed.get("training", listed.get("train", []))
        folds = [line.get("fold") if isinstance(line, dict) else None for line in lines]
        if self.fold not in folds:
            there = sorted({fold for fold in folds if isinstance(fold, int)})
            got = f"got those of {there}: choose another `fold`, or leave it out"
            raise DataError(f"{self.source}: expected entries of training with `fold` {self.fold}, {got}")
        of_fold: dict[str, list[Any]] = {"training": [], "validation": []}
        for line, fold in zip(lines, folds, strict=True):
            of_fold["validation" if fold == self.fold else "training"].append(line)
        return {**listed, **of_fold}

    def _line(self, entry: Any, place: str) -> ListedCase:
        """Returns an entry as a line; what is no entry is called by its place, and refused when it is read."""
        images = _images_in(entry)
        case_id = (self._names_by_folder.get(images[0]) or _common_stem(images)) if images else place
        return ListedCase(case_id, partial(self._read_entry, case_id, entry))

    @cached_property
    def _names_by_folder(self) -> Mapping[str, str]:
        """Names of cases by their first image, if the files of two cases of a split have one name; else none."""
        firsts: list[str] = []
        are_named = True
        for lines in self._content().values():
            if isinstance(lines, list):
                images = [*filter(None, map(_images_in, lines))]
                stems = {files[0]: _common_stem(files) for files in images}
                are_named &= all(stems.values()) and len({*stems.values()}) == len(stems)
                firsts += [files[0] for files in images]
        return {} if are_named else _told_apart(firsts)

    def _read_entry(self, case_id: str, entry: Any) -> ImageFiles:
        """Returns the case of an entry; raises UnlabelledError for one without label map, if these are asked for."""
        images = _images_in(entry)
        label = None
        if not images:
            raise DataError(f"{self.source}: expected {{image, label}} or an image's name, got {entry!r}")
        if self.reference == "label":
            label = entry.get("label") if isinstance(entry, dict) else _label_beside(self._root(), images[0])
            if not isinstance(label, str) or not label:
                advice = "choose a labelled split, or set reference: prediction"
                raise UnlabelledError(f"{self.source}: expected a label map for {images[0]}, got none: {advice}")
            label = self._place_of(label)
        patient = entry.get("patient") or "" if isinstance(entry, dict) else ""
        return ImageFiles(case_id=case_id, patient=str(patient), channels=tuple(map(self._place_of, images)), map=label)

    def _place_of(self, path: str) -> str:
        """Returns the place of a file of the list: below `root`, or beside a list elsewhere if it is only there."""
        below = join(self._root(), path)
        beside = join(self.source.rpartition("/")[0], path)
        return beside if beside != below and not storage.exists(below) and storage.exists(beside) else below


def _images_in(line: Any) -> tuple[str, ...]:
    """Returns the names of an entry's images in the list; none for a malformed entry."""
    images = line.get("image") if isinstance(line, dict) else line
    several: list[Any] = images if isinstance(images, list) and isinstance(line, dict) else [images]
    if not all(isinstance(image, str) and image for image in several):
        return ()
    return tuple(image if isinstance(line, dict) or "/" in image else f"imagesTr/{image}" for image in several)


def _common_stem(images: Sequence[str]) -> str:
    """Returns the name of an image's file, or the beginning that the names of several share, up to a separator."""
    stems = [image_files.stem(image) for image in images]
    if len(stems) == 1:
        return stems[0]
    parts = zip_longest(*(re.split(r"[._-]", stem) for stem in stems))
    shared = [words[0] for words in takewhile(lambda words: len(set(words)) == 1, parts)]
    return stems[0][: len("_".join(shared))]


def _told_apart(images: Sequence[str]) -> dict[str, str]:
    """Returns the distinctive part of each path: the name of one folder if it suffices, else of several."""
    paths = {image: image.removeprefix("./").split("/") for image in images}
    depth = min(map(len, paths.values()))
    told: list[int] = []
    for index in range(-1, -depth - 1, -1):  # from the file's name upwards
        num_names = len({parts[index] for parts in paths.values()})
        if num_names == len(paths) and index < -1:
            return {image: parts[index] for image, parts in paths.items()}
        if num_names > 1:
            told.insert(0, index)
    names: dict[str, str] = {}
    for image, parts in paths.items():
        stems = [image_files.stem(parts[index]) for index in told or [-1]]
        names[image] = "_".join([*parts[:-depth], *stems])
    return names


class Place(NamedTuple):
    """Places of a download's cases; `{case}`, `{patient}` and `{number}` (the case's digits) are filled in."""

    marker: str  # a file or folder that marks this layout
    image: str
    label: str


class PublishedSplit(Decathlon):
    """A dataset with a published split, in the Decathlon layout that the list names or as downloaded.

    Attributes:
        list_file: `list` in job files: `published`, or your own Decathlon list, in `root` or absolute.
        split: `training`, `validation` or, if its label maps are public, `test`; or a slice: `validation[0:4]`.
    """

    shipped: ClassVar[str]
    labelled: ClassVar[tuple[str, ...]]
    names: ClassVar[tuple[str, ...]]
    places: ClassVar[tuple[Place, ...]]

    split: str = "validation"
    list_file: str = Field(PUBLISHED, alias="list")

    def _entries(self) -> Mapping[str, list[Any]]:
        """Returns the lists by their keys; of the published list, those with label maps."""
        entries = super()._entries()
        return {key: entries[key] for key in self.labelled} if self.list_file == PUBLISHED else entries

    def stated_labels(self) -> Stated:
        """Returns the published names."""
        return Stated(names=dict(enumerate(self.names)))

    @property
    def source(self) -> str:
        """The published list, or the job's."""
        return str(SPLITS / self.shipped) if self.list_file == PUBLISHED else super().source

    def _read_entry(self, case_id: str, entry: Any) -> ImageFiles:
        if self.list_file != PUBLISHED:
            return super()._read_entry(case_id, entry)
        if (place := self._place) is None:
            try:
                return super()._read_entry(case_id, entry)
            except UnlabelledError:  # a bare name in a labelled split: name the missing label map
                (image,) = _images_in(entry)
                label = image.replace("images", "labels").replace(".nii.gz", "_gt.nii.gz")
                return super()._read_entry(case_id, {"image": image, "label": label})
        patient = case_id.partition("_frame")[0]
        number = "".join(filter(str.isdigit, patient))
        image, label = (
            join(self._root(), pattern.format(case=case_id, patient=patient, number=number))
            for pattern in (place.image, place.label)
        )
        return ImageFiles(case_id=case_id, channels=(image,), map=label)

    @cached_property
    def _place(self) -> Place | None:
        """The download's layout, None for Decathlon's; raises DataError if neither exists."""
        root = self._root()
        if storage.exists(join(root, "imagesTr")):
            return None
        for place in self.places:
            if storage.exists(join(root, place.marker)):
                return place
        markers = ", ".join(["imagesTr", *(place.marker for place in self.places)])
        advice = f"check `root`, or download it from {self.homepage}"
        raise MissingDataError(f"{root}: expected one of {markers} in it, found none: {advice}")


def is_averaged(path: str) -> bool:
    """True if the file's name in `path` is that of an average over volumes, not of a case: `avg152T1...`,
    `DET0000101_avg...`."""
    name = image_files.stem(path)
    return name.startswith("avg") or "_avg" in name


def _label_beside(root: str, image: str) -> str | None:
    parent, _, file = image.rpartition("/")
    above, _, beside = parent.rpartition("/")
    suffix = file.removeprefix(image_files.stem(image))
    for folder in (beside.replace("images", "labels"), "labelsTr"):
        for name in (file, f"{image_files.stem(image)}_gt{suffix}"):
            label = "/".join(filter(None, (above, folder, name)))
            if label != image and storage.exists(join(root, label)):
                return label
    return None
