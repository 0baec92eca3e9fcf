"""Defines a case of a list as the files that it is read from: an image, and a label map or a mask per class."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, MissingDataError, NoFileError
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.data import image_files
from freqbench.data.headers import Header
from freqbench.data.labels import Reading, read_classes

T = TypeVar("T")
Labels = npt.NDArray[np.uint8]
YES_OR_NO = {0: 0, 1: 1}  # classes of the values of a mask


@dataclass(frozen=True, kw_only=True)
class Scan(abc.ABC):
    """A case of a list, which reads its own files.

    Attributes:
        case_id: name of the case.
        patient: its patient as the list states it; empty: by its name.
        rater: whose label map it has, if there are several.
    """

    reads_labels: ClassVar[bool] = True  # in a survey
    unlabelled: ClassVar[Mapping[str, Any]] = {"map": None}  # fields of its label map, and their values without one
    case_id: str
    patient: str = ""
    rater: str = ""

    @property
    def name(self) -> str:
        """The case's name without the rater, by which its patient is known."""
        return self.case_id.removesuffix(f"_{self.rater}") if self.rater else self.case_id

    @property
    @abc.abstractmethod
    def where(self) -> str:
        """Name of its image in errors."""

    @property
    def has_label(self) -> bool:
        """True if it has a label map."""
        return any(getattr(self, name) for name in self.unlabelled)

    @abc.abstractmethod
    def files(self) -> tuple[str, ...]:
        """Returns the paths or URIs of its files, each once."""

    @abc.abstractmethod
    def image(self) -> Header:
        """Reads and checks the header of its image; raises DataError."""

    @abc.abstractmethod
    def label(self, image: Header) -> Header | None:
        """Reads and checks the header of its label map, which lies on the grid of header `image`; None without one."""

    def classes(self, label: Header, reading: Reading) -> Labels:
        """Returns the class of each voxel `[H, W, D]` of the label map of header `label`; raises DataError for values
        that `reading` does not know."""
        return reading.read(label)

    def absent(self) -> list[str]:
        """Returns its files that do not exist."""
        return [path for path in self.files() if not storage.exists(path)]

    def check(self) -> None:
        """Raises DataError for a truncated file; see `image_files.check_length`."""
        for path in self.files():
            image_files.check_length(image_files.fetch(path))

    def fingerprint(self, image: Header | None = None) -> str:
        """Returns a digest of the content of its files; `image` is its image's header, if the caller has it."""
        what = f"a file of case {self.case_id}"
        contents: list[str] = []
        for path in self.files():
            contents += answer(image_files.sha256s, path, what)
        return digest([*contents, *filter(None, [self.rater])])  # two raters may have drawn the same


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Scan):
    """An image of a file per channel, and a label map."""

    channels: tuple[str, ...]
    map: str | None = None

    @property
    def where(self) -> str:
        """The first file of its image."""
        return self.channels[0]

    def files(self) -> tuple[str, ...]:
        """Returns its files, as `Scan.files`."""
        return tuple(dict.fromkeys(filter(None, (self.channels[0], self.map, *self.channels[1:]))))

    def fingerprint(self, image: Header | None = None) -> str:
        """Returns a digest as `Scan.fingerprint` does of `image`, and of the places of a file that is several
        channels."""
        of_files = super().fingerprint(image)
        places = [*map(self.channels.index, self.channels)]
        return of_files if len({*places}) == len(places) else digest([of_files, places])

    def image(self) -> Header:
        """Reads one header for all channels."""
        local = [answer(image_files.fetch, path, f"the image of case {self.case_id}") for path in self.channels]
        return image_files.stack([image_files.read_header(path, multichannel=len(local) == 1) for path in local])

    def label(self, image: Header) -> Header | None:
        """Reads the header of its label map on the grid of `image`, as `Scan.label`."""
        return self._read_on_grid(self.map, image) if self.map else None

    def _read_on_grid(self, path: str, image: Header) -> Header:
        local = answer(image_files.fetch, path, f"the label map of case {self.case_id}")
        header = image_files.read_header(local).turn_to(image)
        header.check_same_grid(image)
        return header


@dataclass(frozen=True, kw_only=True)
class MaskFiles(ImageFiles):
    """An image and a mask per class from 1 on; where masks overlap, the later class gets the voxel."""

    reads_labels: ClassVar[bool] = False  # they are many, and hold only yes or no
    unlabelled: ClassVar[Mapping[str, Any]] = {"masks": ()}
    masks: tuple[str, ...]

    def files(self) -> tuple[str, ...]:
        """Returns its files, as `Scan.files`."""
        return tuple(dict.fromkeys((*self.channels, *self.masks)))

    def label(self, image: Header) -> Header | None:
        """Reads the header of its first mask, and checks all against the grid of header `image`."""
        return next(iter([self._read_on_grid(mask, image) for mask in self.masks]), None)

    def classes(self, label: Header, reading: Reading) -> Labels:
        """Returns the class `[H, W, D]` of the last mask that holds each voxel, on the grid of header `label`; masks
        say their class, not `reading`."""
        merged = np.zeros(label.shape, np.uint8)
        for index, mask in enumerate(self.masks, start=1):
            merged[read_classes(self._read_on_grid(mask, label), YES_OR_NO) == 1] = index
        return merged


@dataclass(frozen=True)
class ListedCase:
    """A case in a list: its name, and the function that finds its files, which raises DataError."""

    case_id: str
    scan: Callable[[], Scan]


@dataclass(frozen=True, kw_only=True)
class Stated:
    """Facts on label maps by the files' own list; the job's keys come before them.

    Attributes:
        names: name of each label.
        problem: why there are none; raised if the job gives none either.
        regions: labels that make up each region, if it states regions.
        ignored: labels whose voxels do not count.
        shared: sets of labels that some voxel holds together: their classes are regions then.
        tolerance_mm: tolerated distance of every class's surface; None: by organ.
        channels: names of the images' channels; empty: not stated.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    problem: DataError | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()
    shared: frozenset[frozenset[int]] = frozenset()
    tolerance_mm: float | None = None
    channels: tuple[str, ...] = ()


def answer(ask: Callable[[str], T], path: str, what: str) -> T:
    """Returns what `ask` answers about the file at `path`; raises MissingDataError, which names `what` it is, if there
    is no file."""
    try:
        return ask(path)
    except NoFileError:
        if (link := Path(path)).is_symlink():
            rest = "where there is no file: fetch its content (git annex get, datalad get)"
            raise MissingDataError(f"{path}: expected {what}, found a link to {link.readlink()}, {rest}") from None
        raise MissingDataError(f"{path}: expected {what}, found no file: check `root` and the list") from None
