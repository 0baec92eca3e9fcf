"""Reads raw folders of nnU-Net. Isensee et al., Nature Methods 2021, arXiv:1904.08128."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import Field

from freqbench.core.errors import DataError, unknown
from freqbench.core.files import storage
from freqbench.core.limits import whole
from freqbench.data import image_files
from freqbench.data.loaders.folder import CaseFiles, ListedFolder, asked, expanded, join, read_json, read_object

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

    def splits(self) -> Mapping[str, Sequence[Any]]:
        """Returns the cases with a label map, each as its id and its images and label map, by their paths in `root`."""
        of_training = self._labelled("Tr")
        splits = {"training": [*of_training.items()], "validation": [], "test": [*self._labelled("Ts").items()]}
        if self.fold is not None:
            path = join(self._root(), expanded(self.splits_file, self.name))
            folds = read_json(path, "the folds")
            if not isinstance(folds, list) or self.fold >= len(folds):
                count = len(folds) if isinstance(folds, list) else "none"
                raise DataError(f"{path}: expected fold {self.fold}, got a list of {count}: choose another `fold`")
            fold = folds[self.fold]
            if not isinstance(fold, dict) or not all(isinstance(fold.get(key), list) for key in ("train", "val")):
                got = f"{fold!r:.60}"
                raise DataError(f"{path}: expected lists train and val in fold {self.fold}, got {got}: fix the file")
            for key, cases in (("training", fold["train"]), ("validation", fold["val"])):
                splits[key] = [*self._of_fold([*map(str, cases)], of_training)]
        return {key: cases for key, cases in splits.items() if cases}

    def unlabelled(self) -> tuple[str, ...]:
        """Returns the ids of the cases of `imagesTr` that have no label map."""
        if self._listed():
            return ()
        first, labelled = f"_0000{self._ending()}", self._labelled("Tr")
        images = storage.list_files(join(self._root(), "imagesTr"), first)
        return tuple(case for name in images if (case := name.removesuffix(first)) not in labelled)

    def _of_fold(self, cases: Sequence[str], labelled: _Cases) -> Iterator[tuple[str, _Files]]:
        """Yields a fold's cases with their files, also without a label map; refuses one that is not in the list."""
        listed = self._listed()
        usual = {} if listed else self._usual("Tr", cases)
        for case in cases:
            if listed and case not in listed:
                raise DataError(f"{self._source()}: {unknown('case', case, listed)}")
            yield case, labelled.get(case) or usual[case]

    def _labelled(self, side: str) -> _Cases:
        """Returns the files of the cases that are listed, else of those with a label map in their folder."""
        if side == "Tr" and (listed := self._listed()):
            return listed
        ending, folder = self._ending(), join(self._root(), f"labels{side}")
        files = storage.list_files(folder, "")
        names = [name for name in files if name.endswith(ending)]
        others = sorted({other for other in image_files.SUFFIXES for name in files if name.endswith(other)})
        if others and not names:
            raise DataError(
                f"{self._source()}: expected the file_ending of the label maps, got {ending}, though those of {folder} "
                f"end in {others[0]}: fix file_ending"
            )
        return self._usual(side, [name.removesuffix(ending) for name in names])

    def _usual(self, side: str, cases: Sequence[str]) -> _Cases:
        """Returns the files of cases as nnU-Net calls them."""
        ending, channels = self._ending(), range(self._channels() if cases else 0)
        return {
            case: ([f"images{side}/{case}_{k:04d}{ending}" for k in channels], f"labels{side}/{case}{ending}")
            for case in cases
        }

    def _listed(self) -> _Cases:
        """Returns images and label map of the cases that the key `dataset` lists; none without it."""
        listed = self._content().get("dataset")
        cases, channels = dict[str, _Files](), self._channels() if listed else 0
        for case, files in listed.items() if isinstance(listed, dict) else ():
            images, label = (files.get("images"), files.get("label")) if isinstance(files, dict) else (None, None)
            if not (isinstance(images, list) and isinstance(label, str) and all(isinstance(x, str) for x in images)):
                raise DataError(
                    f"{self._source()}: expected `dataset` with {{images: [...], label: ...}} of each case, got "
                    f"{files!r:.80} for {case}: fix the file"
                )
            if len(images) != channels:
                raise DataError(
                    f"{self._source()}: expected an image for each of the {channels} channels of {case}, got "
                    f"{len(images)}: fix the file"
                )
            cases[case] = images, label
        return cases

    def _source(self) -> str:
        return join(self._root(), "dataset.json")

    def _content(self) -> dict[str, Any]:
        path = self._source()
        return _read_description(path, asked(storage.sha256, path, DESCRIPTION))

    def _ending(self) -> str:
        ending = self._content().get("file_ending", ".nii.gz")
        if ending not in image_files.SUFFIXES:
            raise DataError(
                f"{self._source()}: expected file_ending {', '.join(image_files.SUFFIXES)}, got {ending!r}: "
                + image_files.OTHER_FORMATS.get(str(ending).lower(), "convert the files")
            )
        return str(ending)

    def _channels(self) -> int:
        content = self._content()
        channels = content.get("channel_names", content.get("modality"))
        if not isinstance(channels, dict) or not channels:
            raise DataError(
                f"{self._source()}: expected channel_names {{'0': ...}}, got {channels!r}: give a raw folder of nnU-Net"
            )
        return len(channels)

    def _listed_labels(self) -> Mapping[int, str]:
        listed = self._stated_labels()
        if self._has_listed_regions():
            values = {value for values in listed.values() for value in _values(values)} - {*self._ignored()}
            return {value: f"label {value}" if value else "background" for value in sorted(values | {0})}
        named = {value: str(name) for name, value in listed.items() if name != IGNORE}
        if len(named) < 2 or len(named) < len(listed) - (IGNORE in listed) or 0 not in named:
            raise DataError(
                f"{self._source()}: expected different labels, 0 for the background, got {listed!r}: give `labels` in "
                "the job file"
            )
        return dict(sorted(named.items()))

    def _has_listed_regions(self) -> bool:
        return any(len(_values(values)) > 1 for values in self._stated_labels().values())

    def _regions(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the job's regions, else those of the list, in its order, unless the job names classes."""
        if self.regions or self.labels is not None or not self._has_listed_regions():
            return super()._regions()
        stated = {str(name): _values(values) for name, values in self._stated_labels().items() if name != IGNORE}
        regions = {name: values for name, values in stated.items() if values != (0,)}
        order = self._content().get("regions_class_order")
        if isinstance(order, list) and len(order) != len(regions):
            raise DataError(
                f"{self._source()}: expected regions_class_order with a label for each of {len(regions)} regions, got "
                f"{len(order)}: fix the file"
            )
        ignored = {*self._ignored()}
        for name, values in regions.items():
            if both := ignored.intersection(values):
                raise DataError(
                    f"{self._source()}: expected regions of labels that count, got {min(both)} in {name}, which is "
                    "ignored: take it out of one"
                )
        if self.label_map is not None:
            return regions
        numbers = {value: k for k, value in enumerate(self._listed_labels())}  # labels may have gaps, classes have none
        return {name: tuple(numbers[value] for value in values) for name, values in regions.items()}

    def _ignored(self) -> tuple[int, ...]:
        """Returns the job's `ignore`, else the value of the label `ignore` of nnU-Net v2, if the folder has one."""
        if "ignore" in self.model_fields_set:
            return self.ignore
        stated = self._stated_labels()
        return _values(stated[IGNORE]) if IGNORE in stated else ()

    def _stated_labels(self) -> dict[str, Any]:
        """Returns the value of each label, or those of a region, by their names, as nnU-Net v2 writes them."""
        listed = self._content().get("labels")
        if not isinstance(listed, dict):
            raise DataError(f"{self._source()}: expected labels {{background: 0, ...}}, got {listed!r}: fix the file")
        if "0" in listed:  # v1 has them the other way round
            listed = {str(name): whole(str(value)) for value, name in listed.items()}
        for name, value in listed.items():
            if not _values(value) or any(type(number) is not int for number in _values(value)):
                raise DataError(
                    f"{self._source()}: expected a whole number for each label, or a list of them for a region, got "
                    f"{value!r} for {name}: fix the file"
                )
        return {
            name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in listed.items()
        }

    def _case_id(self, line: Any) -> str:
        return str(line[0])

    def _parsed(self, line: Any) -> CaseFiles:
        case_id, (images, label) = line
        image, *further = (join(self._root(), path) for path in images)
        return CaseFiles(case_id, self.patient_of(case_id), image, join(self._root(), label), further=tuple(further))


@lru_cache(maxsize=64)
def _read_description(path: str, content_sha256: str) -> dict[str, Any]:
    """Parses `dataset.json` once for each content of the file."""
    return read_object(path, DESCRIPTION)


def _values(label: Any) -> tuple[Any, ...]:
    """Returns the values of a label or of a region."""
    return tuple(label) if isinstance(label, list) else (label,)
