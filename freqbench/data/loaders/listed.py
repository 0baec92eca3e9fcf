"""Folders of NIfTI files whose cases stand in lists: splits by key, slices of them, and a survey of what is there."""

import abc
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqbench.core import storage
from freqbench.core.errors import DataError, MissingDataError, unknown
from freqbench.data import nifti
from freqbench.data.loaders.folder import Entry, NiftiFolder

_SPLIT = re.compile(r"(?P<key>\w+)(?:\[(?P<start>-?\d*):(?P<stop>-?\d*)\])?")

_OTHER_NAME = {"train": "training", "training": "train", "val": "validation", "validation": "val"}


class UnlabelledError(DataError):
    """A case for which the list names no label map."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What there is of a split, by headers and lengths alone: voxels may still be damaged.

    Attributes:
        split: its key.
        num_cases: how many the list names.
        images: files of all images with a label map, there or not.
        complete: ids of the cases whose files are there, whole and with sound headers.
        missing: files of the others that are not there.
        unlabelled: ids of cases for which the list names no label map.
        faults: a line each on headers and lengths that are not what they should be.
    """

    split: str
    num_cases: int
    images: tuple[str, ...]
    complete: tuple[str, ...]
    missing: tuple[str, ...]
    unlabelled: tuple[str, ...]
    faults: tuple[str, ...]


class ListedFolder(NiftiFolder, abc.ABC):
    """A folder of which something lists the cases of each split, a line a case; a layout says what a line is.

    Attributes:
        split: a key of the list, or a slice of one: `validation[0:30]`. Where the list says `training`, `train` is
            the same, and so `val` and `validation`.
    """

    @abc.abstractmethod
    def splits(self) -> Mapping[str, Sequence[Any]]:
        """The lines of every split, in order.

        Raises:
            DataError: the list is not there or cannot be read.
        """

    @abc.abstractmethod
    def _case_id(self, line: Any) -> str:
        """What a line's case is called."""

    @abc.abstractmethod
    def _parsed(self, line: Any) -> Entry:
        """A line's files.

        Raises:
            UnlabelledError: the line names no label map.
            DataError: the line is not what it should be.
        """

    def survey(self, split: str) -> Survey:
        """Which cases of a split are complete and what the others lack; reads headers, no voxels.

        Raises:
            DataError: the list is not what it should be.
        """
        images: list[str] = []
        complete, missing, unlabelled, faults = [], [], [], []
        lines = self._lines(split)
        for line in lines:
            case_id = self._case_id(line)
            try:
                entry = self._parsed(line)
            except UnlabelledError:
                unlabelled.append(case_id)
                continue
            images.extend((entry.image, *entry.further))
            absent = [path for path in entry.files() if not storage.exists(path)]
            missing.extend(absent)
            if absent:
                continue
            try:
                self._headers(entry)
                for path in entry.files():
                    nifti.check_length(storage.fetch(path))
                complete.append(case_id)
            except DataError as error:
                faults.append(str(error))
        return Survey(
            split=split,
            num_cases=len(lines),
            images=tuple(images),
            complete=tuple(complete),
            missing=tuple(missing),
            unlabelled=tuple(unlabelled),
            faults=tuple(faults),
        )

    def listed_cases(self) -> int | None:
        """As many as the list of the split has; None where the list is not there."""
        try:
            return len(self._lines(self.split))
        except MissingDataError:
            return None

    def _lines(self, split: str) -> Sequence[Any]:
        """What the list holds under a key or in a slice of it."""
        found = _SPLIT.fullmatch(split)
        if not found:
            raise DataError(f"{self.name}: expected a split like validation or validation[0:30], got {split!r}")
        splits = self.splits()
        key = found["key"] if found["key"] in splits else _OTHER_NAME.get(found["key"], found["key"])
        if key not in splits:
            raise DataError(f"{self._source()}: {unknown('split', found['key'], splits)}")
        start, stop = (int(bound) if bound else None for bound in (found["start"], found["stop"]))
        lines = splits[key][start:stop]
        if not lines:
            raise DataError(f"{self._source()}: expected cases in split {split}, got none: choose one of {[*splits]}")
        return lines

    def _entries(self, split: str) -> dict[str, Entry]:
        """The entries of a key or slice by case id, in the list's order."""
        entries: dict[str, Entry] = {}
        for line in self._lines(split):
            entry = self._parsed(line)
            if entry.case_id in entries:
                raise DataError(
                    f"{self._source()}: expected each case of {split} once, got {entry.case_id} twice: remove one"
                )
            entries[entry.case_id] = entry
        return entries

    def _entry(self, case_id: str) -> Entry:
        """A case's entry: of `split` if it stands there, else of the first key of the list that holds it."""
        keys = [key for key, lines in self.splits().items() if lines]
        for split in (self.split, *keys):
            for line in self._lines(split):
                if self._case_id(line) == case_id:
                    return self._parsed(line)
        raise DataError(f"{self._source()}: expected case {case_id}, got a list without it: plan the job again")
