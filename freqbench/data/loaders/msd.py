"""Reads the ten tasks of the Medical Segmentation Decathlon, in a folder, or by name from mirrors, checked by SHA-256.
Antonelli et al., Nature Communications 2022, arXiv:2106.05735."""

import hashlib
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, model_validator

from freqbench.core.errors import DataError, MissingDataError, one_line, unknown
from freqbench.core.files import downloads, node_cache, storage
from freqbench.core.input_space import Intensity
from freqbench.data import nsd_tolerances
from freqbench.data.headers import Header
from freqbench.data.loaders.decathlon import LIST, SPLITS, Decathlon
from freqbench.data.loaders.folder import expand_variables, join, read_object
from freqbench.data.scans import ImageFiles, Stated, answer

MR = None  # intensities without a unit: percentiles of each volume

# Folder of each task: the Hounsfield units that become 0 and 1. CT windows are those commonly used for the organ.
TASKS: Mapping[str, tuple[float, float] | None] = {
    "Task01_BrainTumour": MR, "Task02_Heart": MR, "Task03_Liver": (-200.0, 250.0), "Task04_Hippocampus": MR,
    "Task05_Prostate": MR, "Task06_Lung": (-1000.0, 1000.0), "Task07_Pancreas": (-87.0, 199.0),
    "Task08_HepaticVessel": (0.0, 230.0), "Task09_Spleen": (-57.0, 164.0), "Task10_Colon": (-57.0, 175.0),
}  # fmt: skip
CHANNELS: Mapping[str, int] = {"Task01_BrainTumour": 4, "Task05_Prostate": 2}  # channels of the tasks that have several
SHIPPED = "freqbench"  # the word of a job's `list` for one of LISTS
LISTS: Mapping[str, Path] = {"Task04_Hippocampus": SPLITS / "msd_hippocampus.json"}
"""Decathlon lists of the package, whose entries have the SHA-256 of image and label map as `sha256`."""
MIRRORS = (  # MONAI's, which hold TASK.tar, and their copy in Europe: https://registry.opendata.aws/msd
    "https://msd-for-monai.s3-us-west-2.amazonaws.com",
    "https://msd-for-monai-eu.s3.eu-west-2.amazonaws.com",
)


def organ_of(task: str) -> str:
    """Returns a task's bare name.

    >>> organ_of("Task04_Hippocampus")
    'hippocampus'
    """
    return task.partition("_")[2].lower()


def task_of(value: object) -> str:
    """Returns a task's folder from a `value`, its folder, number or bare name; raises ValueError if there is no such
    task."""
    for number, task in enumerate(TASKS, start=1):
        if str(value).lower() in (task.lower(), str(number), f"{number:02d}", organ_of(task)):
            return task
    raise ValueError(unknown("task", str(value), TASKS))


class MSD(Decathlon):
    """Any task of the Medical Segmentation Decathlon, with its own default window.

    Classes come from the task's list. Label maps are public for `training` alone: hold out a slice of it. Each file
    keeps its spacing unless `spacing` is given. Task01 (BraTS) has four channels, Task05 two. Licence: CC-BY-SA 4.0.

    `task: hippocampus` without `root` is data by name: the same 260 volumes wherever they lie, checked by SHA-256. Its
    list is not the folder's but that of the package, with the splits `training` (200), `validation` (30, to choose
    weights), `reported` (10, which earlier reports measured) and `test` (20, which no training or choice has seen). A
    job that gives `root` reads the folder's own list, as for other tasks; `list: freqbench` takes that of the package.

    Attributes:
        task: the task's folder, `Task09_Spleen`, its number, or its bare name, `spleen`.
        root: the folder that holds the task's folder, or the task's folder itself. Empty: `Task09_Spleen` or `spleen`
            under FREQBENCH_DATA; the hippocampus is fetched (27 MB) into the node's cache if it is not there.
        list_file: `list` in job files: the JSON list, in `root` or absolute, or `freqbench`: that of the package.
        intensity: None takes the task's: the organ's window for CT, `percentile` for MR.
    """

    loader: ClassVar[str] = "msd"
    homepage: ClassVar[str] = "http://medicaldecathlon.com"

    task: Annotated[str, BeforeValidator(task_of)]
    root: str = ""
    split: str = "training"

    @model_validator(mode="before")
    @classmethod
    def _list_by_name(cls, values: Any) -> Any:
        """Takes the package's list for an entry that gives neither `root` nor `list`."""
        is_named = isinstance(values, dict) and "task" in values and not {"root", "list", "list_file"} & values.keys()
        return {**values, "list": SHIPPED} if is_named and task_of(values["task"]) in LISTS else values

    @classmethod
    def _usual_intensity(cls, values: Mapping[str, Any]) -> Intensity | None:
        window = TASKS[task_of(values["task"])] if "task" in values else None
        return {"window": window} if window else "percentile"

    def stated_labels(self) -> Stated:
        """Returns the list's facts with the tolerance of the task, whatever name the list has."""
        try:
            stated = super().stated_labels()
        except DataError as error:
            stated = Stated(problem=error)
        return replace(stated, tolerance_mm=nsd_tolerances.TASKS[organ_of(self.task)])

    @cached_property
    def num_channels(self) -> int:
        """Channels in the header of the first case; those of the task if no case exists."""
        try:
            return super().num_channels
        except MissingDataError:
            return CHANNELS.get(self.task, 1)

    def _root(self) -> str:
        if not self.root:
            return self._root_by_name()
        root = super()._root().rstrip("/")
        return root if root.rsplit("/", 1)[-1] == self.task else storage.join(root, self.task)

    def _root_by_name(self) -> str:
        """Returns the first folder of the task that is there; raises MissingDataError for none."""
        data = os.environ.get("FREQBENCH_DATA")
        organ = organ_of(self.task)
        for folder in (self.task, organ) if data else ():
            root = expand_variables(f"${{FREQBENCH_DATA}}/{folder}", self.name)
            if storage.exists(join(root, "imagesTr")):
                return root
        place = f"set FREQBENCH_DATA (now {data or 'not set'}) to a folder with {self.task} or {organ}, give `root`"
        if self.task not in LISTS:
            lacking = f"expected one of them, found neither; it is at {MIRRORS[0]}/{self.task}.tar"
            raise MissingDataError(f"{self.name}: {place}, or unpack {self.task}.tar there: {lacking}")
        try:
            fetched = _fetch_task(self.task, node_cache.folder())
            if not fetched.with_suffix(".json").is_file():  # the cache was cleared meanwhile
                _fetch_task.cache_clear()
                fetched = _fetch_task(self.task, node_cache.folder())
        except MissingDataError as error:
            lacking = f"expected one of them, found neither; tried {error}"
            raise MissingDataError(f"{self.name}: {place}, or run once with internet: {lacking}") from None
        return str(fetched)

    @property
    def _is_shipped(self) -> bool:
        return self.list_file == SHIPPED and self.task in LISTS

    @property
    def source(self) -> str:
        """The list of the package, or the folder's or job's."""
        return str(LISTS[self.task]) if self._is_shipped else super().source

    def _read_entry(self, case_id: str, entry: Any) -> ImageFiles:
        files = super()._read_entry(case_id, entry)
        return PinnedFiles(**vars(files), task=self.task) if self._is_shipped else files


@dataclass(frozen=True, kw_only=True)
class PinnedFiles(ImageFiles):
    """A case of a list of the package, whose files have the SHA-256 that the list states."""

    task: str

    def fingerprint(self, image: Header | None = None) -> str:
        """Returns the digest of its files as `Scan.fingerprint` does with `image`; raises DataError for one that is not
        the list's."""
        for path in self.files():
            wanted = _sha256s(str(LISTS[self.task]))[_end(path)]
            if (content := answer(storage.sha256, path, f"a file of case {self.case_id}")) != wanted:
                advice = f"put the file of {self.task}.tar there, or give `root` to read it as it is"
                got = f"got {content[:12]}...: it is damaged or of another version: {advice}"
                raise DataError(f"{path}: expected sha256 {wanted[:12]}..., {got}")
        return super().fingerprint(image)


@storage.once_each_content
def _sha256s(path: str) -> Mapping[str, str]:
    sha256s: dict[str, str] = {}
    for lines in read_object(path, LIST).values():
        for line in lines if isinstance(lines, list) else ():
            sha256s[line["image"]], sha256s[line["label"]] = line["sha256"]
    return sha256s


@lru_cache(maxsize=8)
def _fetch_task(task: str, cache: Path) -> Path:
    """Returns the folder with a task's files in the node's cache (`cache`); fetches those that are missing there."""
    files = _sha256s(str(LISTS[task]))
    content: dict[str, bytes] = {}

    def get(name: str, target: Path) -> str:
        if not content:
            content.update(_download_task(task, files, target))
        target.write_bytes(content[name])
        return f"{task}.tar"

    return downloads.fetch_pinned(f"msd://{task}", files, get)


def _download_task(task: str, files: Mapping[str, str], temporary: Path) -> dict[str, bytes]:
    """Returns the files from the first mirror that has them all; raises MissingDataError if none has."""
    problems = [f"{MIRRORS[0]}/{task}.tar (FREQBENCH_OFFLINE is set)"] if downloads.is_offline() else []
    for mirror in () if problems else MIRRORS:
        address = f"{mirror}/{task}.tar"
        try:
            downloads.fetch_web(address, temporary)
            # No file is written, so that no name leads anywhere; members that unpack to more than they take are left.
            with tarfile.open(temporary, "r:") as tar:
                members = {_end(member.name): member for member in tar if member.isreg() and not member.issparse()}
                if missing := files.keys() - members.keys():
                    raise DataError(f"expected {min(missing)}, found none")
                streams = {name: tar.extractfile(members[name]) for name in files}
                content = {name: stream.read() for name, stream in streams.items() if stream}
            for name, wanted in files.items():
                if (got := hashlib.sha256(content[name]).hexdigest()) != wanted:
                    raise DataError(f"{name}: expected sha256 {wanted[:12]}..., got {got[:12]}...")
            return content
        except (OSError, HTTPException, tarfile.TarError, ValueError, OverflowError) as error:
            problems.append(f"{address} ({one_line(error, 200)})")
    raise MissingDataError(", or ".join(problems))


def _end(path: str) -> str:
    """Returns the last folder and the name of a path, as the lists name files."""
    return "/".join(path.split("/")[-2:])
