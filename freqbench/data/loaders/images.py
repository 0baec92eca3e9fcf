"""Reads scans without label maps: a folder of images, or a single one."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import ClassVar

from pydantic import model_validator

from freqbench.core.errors import MissingDataError
from freqbench.core.files import storage
from freqbench.data import file_names, image_files
from freqbench.data.labels import few
from freqbench.data.loaders.folder import ListedFolder
from freqbench.data.scans import ImageFiles, ListedCase, Stated


class Images(ListedFolder):
    """Scans without label maps: the image files of a folder, not of folders in it, or one such file.

    Needs `reference: prediction`. If all names end in a channel's number as nnU-Net writes it (`case_0000.nii.gz`,
    `case_0001.nii.gz`), from 0 without a gap and as many for every case, files that differ in it alone are one case;
    else each file is one. A file that is called a mask (`a_seg.nii.gz`), or as a scan beside it and more
    (`a_jane.nii.gz` beside `a.nii.gz`), and holds few whole values is left out.

    Attributes:
        root: folder or URI, or that of a single file; `brainchop://t1_crop.nii.gz` is fetched.
        labels: names of the model's classes, background first, or their number; None: as the first model's file states.
    """

    loader: ClassVar[str] = "images"

    @model_validator(mode="after")
    def _has_no_labels(self) -> "Images":
        if self.reference == "label":
            raise ValueError("expected label maps to score against, scans alone have none: set reference: prediction")
        return self

    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        """Returns the only split, `test`."""
        lines = (ListedCase(case, partial(ImageFiles, case_id=case, channels=(*files,))) for case, files in self._cases)
        return {"test": [*lines]}

    @cached_property
    def _cases(self) -> list[tuple[str, list[str]]]:
        """Each case's name and files, one per channel."""
        masks = self._label_maps()
        if not (files := [file for file in self._all_files() if file not in masks]):
            raise MissingDataError(f"{self._root()}: expected scans, got label maps by name and values: check `root`")
        self.guesses.update({line: {} for line in self._list_guesses(files, [*map(image_files.stem, masks)])})
        stems = {image_files.stem(file): file for file in files}
        cases = file_names.channels_by_case(list(stems)) if len(stems) == len(files) else None
        if cases is None:
            if lacking := file_names.lacking_channels([*map(image_files.stem, files)]):
                said = f"each file counts as a case, though names end in channel numbers: found no {few(lacking, 3)}"
                self.guesses[f"{said}: add them, if the files are channels"] = {}
            return [(image_files.stem(file), [file]) for file in files]
        if most := len(next(iter(cases.values()))) - 1:
            said = f"{len(files)} files are {len(cases)} cases of {most + 1} channels"
            self.guesses[f"{said}, as all names end in the numbers _0000 to _{most:04d}"] = {}
        return [(case, [*map(stems.__getitem__, channels)]) for case, channels in cases.items()]

    def _list_guesses(self, files: Sequence[str], masks: Sequence[str]) -> Iterator[str]:
        """Yields what names and values tell of the scans and of the label maps among them."""
        called = (file for file in files if file != self._root() and file_names.is_called_mask(file))
        if scans := [*map(image_files.stem, called)]:
            said = "files are scans though they are called label maps, as their values are not few and whole"
            yield f"{len(scans)} {said}: {few(scans, 3)}"
        if masks:
            said = f"{len(masks)} files are label maps by their names and few whole values, and no scans"
            yield f"{said}: {few(masks, 3)}: `loader: pairs` scores against them"
        if file_names.classes_in(files[0]):
            yield f"{files[0]} holds few different values, all whole, as a label map does: check `root`"

    def _all_files(self) -> list[str]:
        if (root := self._root()).endswith(image_files.SUFFIXES):
            return [root]
        names = [name for name in storage.list_files(root, "") if name.endswith(image_files.SUFFIXES)]
        if not names:
            endings = ", ".join(image_files.SUFFIXES)
            raise MissingDataError(f"{root}: expected {endings} files, found none: check `root`")
        return [storage.join(root, name) for name in names]

    def _label_maps(self) -> dict[str, None]:
        """Returns files that are label maps by their values, of those called so or as a scan and more, in order."""
        files = [file for file in self._all_files() if file != self._root()]
        scans = {*map(image_files.stem, files)}
        likely: list[str] = []
        ends: dict[str, list[str]] = {}
        for file in files:
            stem = image_files.stem(file)
            if file_names.is_called_mask(file):
                likely.append(file)
            elif begin := next((stem[:i] for i, sign in enumerate(stem) if sign in "._-" and stem[:i] in scans), ""):
                ends.setdefault(stem.removeprefix(begin), []).append(file)
        for alike in ends.values():
            likely += alike if file_names.classes_in(alike[0]) else ()
        return dict.fromkeys(file for file in likely if file_names.classes_in(file))

    def stated_labels(self) -> Stated:
        """Raises MissingDataError, as scans state no classes."""
        raise MissingDataError(
            f"{self.name}: expected `labels`, the number of the model's classes or their names, as neither scans nor "
            "the model's file state them, got none: give them"
        )
