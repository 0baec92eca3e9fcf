"""Reads raw folders of nnU-Net. Isensee et al., Nature Methods 2021, arXiv:1904.08128."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from freqbench.core.errors import DataError, unknown
from freqbench.core.files import storage
from freqbench.core.limits import whole
from freqbench.data import image_files
from freqbench.data.loaders.folder import ListedFolder, expand_variables, join, read_json, read_object
from freqbench.data.scans import ImageFiles, ListedCase, Stated

IGNORE = "ignore"
DESCRIPTION = "nnU-Net's description of the dataset"
_Files = tuple[list[str], str]  # paths of the images, one a channel, and of the label map
_Cases = Mapping[str, _Files]


class NnunetRaw(ListedFolder):
    """Raw folder of nnU-Net (v2, or v1): `imagesTr/case_0000.nii.gz`, `labelsTr/case.nii.gz` and `dataset.json`.

    Every label map is a case; an image has one file per channel, of any format that is read, as `file_ending` says. The
    key `dataset` of `dataset.json` names the files of the cases of `training` if it is there: absolute, or from the
    folder of `dataset.json` on. If a label is a list of values, all labels are regions, unless the job gives `labels`.
    Voxels of nnU-Net's label `ignore` do not count.

    Attributes:
        split: `training` (`labelsTr`) or `test` (`labelsTs`), or a slice of one; with `fold` of `splits_file`
            (nnU-Net's own, in `root` or absolute) `training` and `validation` are the fold's.
    """

    loader: ClassVar[str] = "nnunet_raw"

    fold: Annotated[int, Field(ge=0)] | None = None
    splits_file: str = "splits_final.json"

    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        """Returns the cases with a label map, and all listed cases of a fold."""
        of_training = self._labelled_cases("Tr")
        splits = {"training": [*of_training.items()], "validation": [], "test": [*self._labelled_cases("Ts").items()]}
        if self.fold is not None:
            path = join(self._root(), expand_variables(self.splits_file, self.name))
            folds = read_json(path, "the folds")
            if not isinstance(folds, list) or self.fold >= len(folds):
                count = len(folds) if isinstance(folds, list) else "none"
                raise DataError(f"{path}: expected fold {self.fold}, got a list of {count}: choose another `fold`")
            fold = folds[self.fold]
            if not isinstance(fold, dict) or not all(isinstance(fold.get(key), list) for key in ("train", "val")):
                wanted = f"lists train and val in fold {self.fold}"
                raise DataError(f"{path}: expected {wanted}, got {fold!r:.60}: fix the file")
            listed = self._entries()
            for key, of_fold in (("training", fold["train"]), ("validation", fold["val"])):
                cases = [*map(str, of_fold)]  # also those without a label map
                usual = {} if listed else self._usual("Tr", cases)
                if strange := [case for case in cases if listed and case not in listed]:
                    raise DataError(f"{self.source}: {unknown('case', strange[0], listed)}")
                splits[key] = [(case, of_training.get(case) or usual[case]) for case in cases]
        lines: dict[str, list[ListedCase]] = {}
        for key, cases_of in splits.items():
            if cases_of:
                lines[key] = [ListedCase(case, partial(self._case, case, *files)) for case, files in cases_of]
        return lines

    def _case(self, case_id: str, images: Sequence[str], label: str) -> ImageFiles:
        images = tuple(join(self._root(), path) for path in images)
        return ImageFiles(case_id=case_id, channels=images, map=join(self._root(), label))

    def unlabelled_cases(self) -> tuple[str, ...]:
        """Returns the ids of the cases of `imagesTr` that have no label map."""
        if self._entries():
            return ()
        first = f"_0000{self._ending()}"
        labelled = self._labelled_cases("Tr")
        images = storage.list_files(join(self._root(), "imagesTr"), first)
        return tuple(case for name in images if (case := name.removesuffix(first)) not in labelled)

    def _labelled_cases(self, side: str) -> _Cases:
        """Returns the files of the cases that are listed, else of those with a label map in their folder."""
        if side == "Tr" and (listed := self._entries()):
            return listed
        ending = self._ending()
        folder = join(self._root(), f"labels{side}")
        files = storage.list_files(folder, "")
        names = [name for name in files if name.endswith(ending)]
        others = {name.removeprefix(image_files.stem(name)) for name in files if name.endswith(image_files.SUFFIXES)}
        if others and not names:
            got = f"got {ending}, though those of {folder} end in {min(others)}: fix file_ending"
            raise DataError(f"{self.source}: expected the file_ending of the label maps, {got}")
        return self._usual(side, [name.removesuffix(ending) for name in names])

    def _usual(self, side: str, cases: Sequence[str]) -> _Cases:
        """Returns the files of cases as nnU-Net calls them."""
        end = self._ending()
        channels = range(len(self._channels()) if cases else 0)
        files: dict[str, _Files] = {}
        for case in cases:
            images = [f"images{side}/{case}_{k:04d}{end}" for k in channels]
            files[case] = images, f"labels{side}/{case}{end}"
        return files

    def _entries(self) -> _Cases:
        """Returns images and label map of the cases that the key `dataset` lists; none without it."""
        listed = self._content().get("dataset")
        cases: dict[str, _Files] = {}
        channels = len(self._channels()) if listed else 0
        for case, files in listed.items() if isinstance(listed, dict) else ():
            images, label = (files.get("images"), files.get("label")) if isinstance(files, dict) else (None, None)
            if not (isinstance(images, list) and isinstance(label, str) and all(isinstance(x, str) for x in images)):
                got = f"of each case, got {files!r:.80} for {case}: fix the file"
                raise DataError(f"{self.source}: expected `dataset` with {{images: [...], label: ...}} {got}")
            if len(images) != channels:
                wanted = f"an image for each of the {channels} channels of {case}"
                raise DataError(f"{self.source}: expected {wanted}, got {len(images)}: fix the file")
            cases[case] = images, label
        return cases

    @property
    def source(self) -> str:
        """The folder's description."""
        return join(self._root(), "dataset.json")

    def _content(self) -> dict[str, Any]:
        return read_object(self.source, DESCRIPTION)

    def _ending(self) -> str:
        if (ending := self._content().get("file_ending", ".nii.gz")) not in image_files.SUFFIXES:
            raise DataError(
                f"{self.source}: expected file_ending {', '.join(image_files.SUFFIXES)}, got {ending!r}: "
                + image_files.OTHER_FORMATS.get(str(ending).lower(), "convert the files")
            )
        return str(ending)

    def _channels(self) -> dict[str, Any]:
        content = self._content()
        channels = content.get("channel_names", content.get("modality"))
        if not isinstance(channels, dict) or not channels:
            raise DataError(f"{self.source}: expected channel_names {{'0': ...}}, got {channels!r}: give a raw folder")
        return dict(sorted(channels.items(), key=lambda channel: whole(channel[0]) or 0))

    def stated_labels(self) -> Stated:
        """Returns the labels, or the regions in their order if a label is a list, and the label `ignore` of v2."""
        listed = self._labels()
        ignored = self.ignore if "ignore" in self.model_fields_set else listed.get(IGNORE, ())
        parts = {name: values for name, values in listed.items() if name != IGNORE}
        about: dict[str, Any] = {"ignored": ignored, "channels": tuple(map(str, self._channels().values()))}
        if any(len(values) > 1 for values in listed.values()):
            labels = {0}.union(*parts.values())
            names = {value: f"label {value}" if value else "background" for value in sorted(labels - {*ignored})}
            regions = {name: values for name, values in parts.items() if values != (0,)}
            order = self._content().get("regions_class_order")
            if isinstance(order, list) and len(order) != len(regions):
                wanted = f"regions_class_order with a label for each of {len(regions)} regions"
                raise DataError(f"{self.source}: expected {wanted}, got {len(order)}: fix the file")
            for name, values in regions.items():
                if both := set(ignored).intersection(values):
                    got = f"got {min(both)} in {name}, which is ignored: take it out of one"
                    raise DataError(f"{self.source}: expected regions of labels that count, {got}")
            return Stated(names=names, regions=regions, **about)
        named = {value: name for name, (value,) in parts.items()}
        if len(named) >= max(2, len(parts)) and 0 in named:
            return Stated(names=dict(sorted(named.items())), **about)
        there = f"got {self._content()['labels']!r}: give `labels` in the job file"
        problem = DataError(f"{self.source}: expected different labels, 0 for the background, {there}")
        return Stated(problem=problem, **about)

    def _labels(self) -> dict[str, tuple[int, ...]]:
        listed = self._content().get("labels")
        if not isinstance(listed, dict):
            raise DataError(f"{self.source}: expected labels {{background: 0, ...}}, got {listed!r}: fix the file")
        if "0" in listed:  # v1 has them the other way round
            listed = {str(name): whole(str(value)) for value, name in listed.items()}
        labels = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in listed.items()}
        for name, values in labels.items():
            if not values or any(type(value) is not int for value in values):
                rest = f"or a list of them for a region, got {listed[name]!r} for {name}: fix the file"
                raise DataError(f"{self.source}: expected a whole number for each label, {rest}")
        return labels
