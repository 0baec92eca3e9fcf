"""Datasets that are NIfTI files in a folder: what their layouts share."""

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator

from freqbench.core import names, storage
from freqbench.core.errors import DataError, MissingDataError, NoFileError, UserError
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import provenance
from freqbench.core.types import Case, CaseRef, NativeCase
from freqbench.data import cache, nifti
from freqbench.data.base import Dataset
from freqbench.data.preprocess import prepared_shape, ras_grid

# To be raised with every change of what `load` makes of the same files.
REVISION = 1

ClassName = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Entry:
    """One case of a folder: its name and its files as paths or URIs."""

    case_id: str
    patient_id: str
    image: str
    label: str
    further: tuple[str, ...] = ()  # the files of further channels, in order
    masks: tuple[str, ...] = ()  # a mask a class from 1 on, where these make the label map; `label` is the first

    def __post_init__(self) -> None:
        try:
            names.required(self.case_id, "case")
        except UserError as error:
            raise DataError(f"{self.image}: {error}") from None

    def files(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((self.image, self.label, *self.further, *self.masks)))


class NiftiFolder(Preprocess, Dataset, abc.ABC):
    """A folder of NIfTI images and label maps; a layout says how its cases are found.

    Attributes:
        root: folder or URI; `~` and environment variables such as `${FREQBENCH_DATA}` are filled in.
        labels: names of all classes, background first; or how many; None takes what the folder says.
    """

    root: str
    labels: Annotated[int, Field(ge=2, le=256)] | tuple[ClassName, ...] | None = None

    @field_validator("labels")
    @classmethod
    def _two_classes_or_more(cls, value: int | tuple[str, ...] | None) -> int | tuple[str, ...] | None:
        if isinstance(value, tuple) and not (2 <= len(value) <= 256 and len(set(value)) == len(value)):
            raise ValueError("expected 2 to 256 different class names, background first")
        return value

    @property
    def class_names(self) -> tuple[str, ...]:
        """From `labels`, else from the folder."""
        if isinstance(self.labels, tuple):
            return self.labels
        if isinstance(self.labels, int):
            return ("background", *(f"class {index}" for index in range(1, self.labels)))
        return self._listed_class_names()

    @cached_property
    def num_channels(self) -> int:
        """Channels of every image, as the header of the first case says."""
        entries = self._entries(self.split)
        first = next(iter(self.chosen(list(entries))), next(iter(entries)))
        return self._image_header(entries[first]).num_channels

    @property
    def space(self) -> Preprocess:
        """From the dataset's own keys."""
        return Preprocess(**{name: getattr(self, name) for name in Preprocess.model_fields})

    def recipe(self) -> dict[str, Any]:
        """Loader, revision, preprocessing and classes."""
        return {"loader": self.loader, "revision": REVISION, **self.space.identity(), "labels": self.class_names}

    @abc.abstractmethod
    def _listed_class_names(self) -> tuple[str, ...]:
        """The names of the classes as the folder gives them."""

    @abc.abstractmethod
    def _entries(self, split: str) -> dict[str, Entry]:
        """The cases of a split by their id, in order."""

    @abc.abstractmethod
    def _entry(self, case_id: str) -> Entry:
        """A case of any split."""

    @abc.abstractmethod
    def _source(self) -> str:
        """The file or folder that says which cases there are, for errors."""

    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        """The cases of a split; reads lists, headers and content hashes, no voxels.

        Raises:
            DataError: list, split, file, header or case id is not what it should be.
        """
        entries = self._entries(split or self.split)
        chosen = [entries[case_id] for case_id in self.chosen(list(entries))]
        storage.prefetch([path for entry in chosen for path in entry.files()])
        headers = [self._headers(entry) for entry in chosen]
        for image, _ in headers:
            model, _ = headers[0]
            if image.num_channels != model.num_channels:
                raise DataError(
                    f"{image.path}: expected as many channels as {model.path.name} has, {model.num_channels}, got "
                    f"{image.num_channels}: give every case the same, or leave it out by `cases`"
                )
        grids = [ras_grid(image.shape, image.affine) for image, _ in headers]
        refs = tuple(
            CaseRef(
                case_id=entry.case_id,
                patient_id=entry.patient_id,
                fingerprint=self._fingerprint(entry),
                shape=prepared_shape(*grid, self.space),
                grid=grid,
            )
            for entry, grid in zip(chosen, grids, strict=True)
        )
        seen: dict[str, str] = {}
        for ref in refs:
            first = seen.setdefault(ref.fingerprint, ref.case_id)
            if first != ref.case_id:  # one identity for two cases: their records would replace each other
                raise DataError(
                    f"{self._source()}: expected different cases, got {first} and {ref.case_id} with the same "
                    "files: remove one"
                )
        return refs

    def load(self, ref: CaseRef, space: Preprocess | None = None) -> Case:
        """Read and preprocess one case of any split, or take it from the node's cache of such volumes.

        Args:
            ref: the case.
            space: of a model that has its own; None: the dataset's.

        Raises:
            DataError: the files are damaged or changed, or their voxels are not what they should be.
        """
        self._check_content(self._entry(ref.case_id), ref)
        wanted = space or self.space
        # A class of another package may read as it likes: its source is part of what a volume hangs on.
        key = digest([cache.REVISION, cache.libraries(), self.case_key(ref), wanted.identity(), provenance(type(self))])
        return cache.through(key, ref, lambda: super(NiftiFolder, self).load(ref, wanted))

    def native(self, ref: CaseRef) -> NativeCase:
        """Read and check one case, of whichever split.

        Raises:
            DataError: the files are damaged or changed, or their voxels are not what they should be.
        """
        entry = self._entry(ref.case_id)
        for path in entry.files():
            _sound_copy(path, f"a file of case {entry.case_id}")
        image, label = self._headers(entry)
        self._check_content(entry, ref)
        return NativeCase(
            ref=ref,
            image=torch.from_numpy(nifti.read_image(image)),
            label=torch.from_numpy(self._read_label(entry, label))[None],
            affine=image.affine,
            spacing=image.spacing,
            source=str(image.path),
        )

    def _check_content(self, entry: Entry, ref: CaseRef) -> None:
        """Refuse files that are not those that the plan was made with."""
        if self._fingerprint(entry) != ref.fingerprint:
            raise DataError(f"{entry.image}: expected the content that was planned, got another: plan the job again")

    def _headers(self, entry: Entry) -> tuple[nifti.Header, nifti.Header]:
        """The checked headers of image and label map."""
        image = self._image_header(entry)
        label = nifti.read_header(_file(entry.label, f"the label map of case {entry.case_id}"))
        label.check_same_grid(image)
        uncut = self.space.model_copy(update={"size": None})
        shape: tuple[int, ...] = prepared_shape(*ras_grid(image.shape, image.affine), uncut)
        if image.num_channels > 1:
            shape = (image.num_channels, *shape)
        nifti.check_size(image.path, shape, "a resampled volume")
        return image, label

    def _read_label(self, entry: Entry, label: nifti.Header) -> npt.NDArray[np.uint8]:
        """The classes of an entry's label map; `label` is its checked header."""
        return nifti.read_label(label, self.num_classes)

    @staticmethod
    def _image_header(entry: Entry) -> nifti.Header:
        """The checked header of all channels."""
        files = (entry.image, *entry.further)
        local = [_file(path, f"the image of case {entry.case_id}") for path in files]
        return nifti.joined([nifti.read_header(path, multichannel=len(files) == 1) for path in local])

    @staticmethod
    def _fingerprint(entry: Entry) -> str:
        return digest([_sha256(path, f"a file of case {entry.case_id}") for path in entry.files()])

    def _root(self) -> str:
        """The root, filled in."""
        return expanded(self.root, self.name)


def expanded(text: str, name: str) -> str:
    """`storage.filled_in`, of a dataset."""
    try:
        return storage.filled_in(text, name)
    except UserError as error:
        raise MissingDataError(str(error)) from None


def join(root: str, path: str) -> str:
    """A path below the root, itself where it is absolute."""
    return path if path.startswith("/") or "://" in path else storage.join(root, path.removeprefix("./"))


def _file(path: str, what: str) -> Path:
    with _said_of(path, what):
        return storage.fetch(path)


def _sha256(path: str, what: str) -> str:
    with _said_of(path, what):
        return storage.sha256(path)


def _sound_copy(path: str, what: str) -> None:
    """Have a copy of a remote file that was damaged on this machine fetched again."""
    if not storage.is_local(path):
        with _said_of(path, what):
            storage.fetch(path, storage.sha256(path))


@contextmanager
def _said_of(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except NoFileError:
        raise MissingDataError(f"{path}: expected {what}, found no file: check `root` and the list") from None
