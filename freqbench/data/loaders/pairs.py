"""Reads folders of images and label maps that a pattern of their names pairs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from freqbench.core.errors import DataError, MissingDataError
from freqbench.core.files import storage
from freqbench.core.terminal import amount
from freqbench.core.types import CaseRef
from freqbench.data import image_files
from freqbench.data.base import Pattern, match_in_time
from freqbench.data.file_names import MODALITIES, classes_in, is_called_mask
from freqbench.data.labels import few
from freqbench.data.loaders.folder import ListedFolder
from freqbench.data.scans import ImageFiles, ListedCase, Stated

SPLIT = "split"
PATIENT = "patient"
RATER = "rater"
ALL = "all"  # raters
NO_NAMES = "the number of classes or their names, background first, as label maps do not state them"
_PART = re.compile(r"\{(\w+)\}|(\*)|([^{}*]+)|([{}])")


class Pairs(ListedFolder):
    """Images and label maps of any folder whose names pair them.

    A pattern is a path below `root` with names in braces, each of which stands for the same text in all patterns:
    `{case}.nii.gz` and `{case}_seg.nii.gz`; `{case}/imaging.nii.gz` and `{case}/segmentation.nii.gz` (KiTS);
    `images/{case}.nii.gz` and `labels/{case}.nii.gz`. A `*` is any text within a name. Several names make up the
    case's: `{patient}/{visit}/t1.nii.gz` is `patient_visit`. `{patient}` is its patient, `{split}` its split; without
    the latter all cases are of the split `test`. A file belongs to the pattern with the most letters that fits it.
    `{rater}` in `label` alone, `{case}_seg{rater}.nii.gz` or `labels/{rater}/{case}.nii.gz`, is a rater or version.

    Attributes:
        image: the images' pattern, or one per channel in the order of the network's training.
        label: the label maps' pattern; not needed with `reference: prediction`.
        labels: names of all classes, background first, or their number.
        rater: whose label maps count, by the name or number in `{rater}`; `all` makes a case of each, with the same
            patient. A case is called by its rater too.
    """

    loader: ClassVar[str] = "pairs"

    image: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    label: Pattern | None = None
    rater: int | Annotated[str, Field(min_length=1)] | None = None

    @field_validator("image", mode="before")
    @classmethod
    def _one_channel(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _patterns_fit(self) -> "Pairs":
        if self.reference == "label" and self.label is None:
            raise ValueError("expected `label`, the pattern of the label maps: give it, or set reference: prediction")
        patterns = self._patterns
        if len(set(patterns)) < len(patterns):
            raise ValueError(f"expected different patterns, got {patterns}: change one")
        if self.rater is not None and (self.reference == "prediction" or not self._is_rated):
            advice = "write {rater} in `label`, or leave `rater` out"
            rest = (
                f"as {{case}}_seg{{rater}}.nii.gz does, got {self.label!r} with reference: {self.reference}: {advice}"
            )
            raise ValueError(f"expected `rater` beside label maps whose pattern names it, {rest}")
        left_out = {RATER} if self._is_rated else set[str]()
        names = [sorted({*_names(pattern)} - left_out) for pattern in patterns]
        for pattern, wanted in zip(patterns, names, strict=True):
            if wanted != names[0] or not set(wanted) - {SPLIT}:
                got = f"got {pattern!r}: change it"
                raise ValueError(f"expected a name in braces such as {{case}}, the same in each pattern, {got}")
        return self

    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        """Returns the cases by their split, sorted; raises MissingDataError if no file fits the patterns."""
        listed: dict[str, list[ListedCase]] = {}
        for split, scans in self._scans.items():
            for scan in scans:
                read = partial(self._need_label, scan, "a label map", str(self.label))
                listed.setdefault(split, []).append(ListedCase(scan.case_id, read))
        return listed

    @property
    def _patterns(self) -> list[str]:
        return [*self.image, *([self.label] if self.label else [])]

    @cached_property
    def _scans(self) -> Mapping[str, Sequence[ImageFiles]]:
        """The cases by their split, also those without a label map."""
        files = self._files()
        keys = set(chain.from_iterable(files.values()))
        raters = self._chosen_raters(sorted({rater for _, rater in keys if rater}))
        splits: dict[str, list[ImageFiles]] = {}
        for texts, found in sorted(files.items()):
            names = dict(zip(self._all_names, texts, strict=True))
            for scan in self._scans_of(names, found, raters):
                splits.setdefault(names.get(SPLIT, "test"), []).append(scan)
        if not any((pattern, "") in keys for pattern in self.image):
            shown = " or ".join(self.image)
            raise MissingDataError(f"{self._root()}: expected images {shown}, found none: check `root` and `image`")
        scans = splits.get(self.split) or [*chain.from_iterable(splits.values())]
        if raters := sorted({scan.rater for scan in scans if scan.rater}):
            count = len({scan.channels for scan in scans})
            self.guesses[f"raters {few(raters)}: {len(scans)} label maps of {amount(count, 'scan')}"] = {}
        return splits

    def _files(self) -> Mapping[tuple[str, ...], Mapping[tuple[str, str], str]]:
        """Returns the paths that fit by the texts of their names, each by its pattern and rater."""
        root = self._root()
        patterns = sorted(self._patterns, key=_num_letters, reverse=True)
        fitted = {pattern: _regex(pattern, self._is_rated) for pattern in patterns}
        files: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
        for path in storage.list_tree(root, max(pattern.count("/") for pattern in patterns) + 1):
            if not path.endswith(image_files.SUFFIXES):
                continue
            for pattern, regex in fitted.items():
                if match := match_in_time(regex.fullmatch, path, f"{root}: {pattern:.160}"):
                    found = files.setdefault(tuple(match[name] for name in self._all_names), {})
                    key = pattern, match[RATER] if self._is_rated and pattern == self.label else ""
                    if key in found:
                        hint = ", or write {rater} where raters differ" if pattern == self.label else ""
                        got = f"got {found[key]} and {path}: make the pattern tell them apart{hint}"
                        raise DataError(f"{root}: expected one file for {pattern}, {got}")
                    found[key] = path
                    break
        return files

    def _scans_of(
        self, names: Mapping[str, str], found: Mapping[tuple[str, str], str], raters: Sequence[str]
    ) -> Iterator[ImageFiles]:
        """Yields the case whose texts are `names`, or one per rater whose label map it has."""
        root = self._root()
        images = [found.get((pattern, "")) for pattern in self.image]
        if self.reference == "prediction" and not any(images):
            return
        paths = (path or _filled(pattern, names) for path, pattern in zip(images, self.image, strict=True))
        channels = tuple(storage.join(root, path) for path in paths)
        masks = {rater: storage.join(root, path) for (pattern, rater), path in found.items() if pattern == self.label}
        is_alone = self.reference == "label" and images[0] and not masks
        if is_alone and is_called_mask(channels[0]) and classes_in(channels[0]):
            return  # of another rater or structure, where the images' pattern fits it too
        name = "_".join(text for name, text in names.items() if name != SPLIT)
        patient = names.get(PATIENT, "")
        for rater in [rater for rater in raters if rater in masks] or [""]:
            case_id = f"{name}_{rater}" if rater else name
            mask = masks.get(rater)
            yield ImageFiles(case_id=case_id, patient=patient, rater=rater, channels=channels, map=mask)

    def other(self, ref: CaseRef, seed: int, split: Sequence[CaseRef] | None = None) -> CaseRef:
        """Returns another case than `ref`, drawn by `seed` from `split` as `Dataset.other` does; with `rater: all` of
        another patient, as images would be equal."""
        split = split or self.whole_split()
        if self.rater == ALL:
            split = [ref, *(other for other in split if other.patient_id != ref.patient_id)]
        return super().other(ref, seed, split)

    @cached_property
    def _is_rated(self) -> bool:
        return RATER in _names(self.label or "") and RATER not in _names(self.image[0])

    def _chosen_raters(self, known: Sequence[str]) -> Sequence[str]:
        """Returns the raters whose label maps count, of those found; raises DataError unless `rater` tells them."""
        if not self._is_rated:
            return ("",)
        if not known or self.reference == "prediction":
            return ()
        if self.rater == ALL:
            return known
        got = f"{self.label} of {len(known)} raters, {few(known)}"
        if self.rater is None:
            advice = f"give the key `rater` one of these, or {ALL}, which makes a case of each"
            raise DataError(f"{self.name}: expected the label maps of one rater, got {got}: {advice}")
        wanted = str(self.rater)
        alike = [rater for rater in known if _last_part(rater) == _last_part(wanted)]
        found = [rater for rater in known if rater == wanted] or alike
        if len(found) != 1:
            raise DataError(f"{self.name}: rater: expected one of {got}, got {wanted!r}: give one of these, or {ALL}")
        return found

    @cached_property
    def _all_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_names(self.image[0])))

    def stated_labels(self) -> Stated:
        """Returns no classes, as label maps state none, and the modalities in which all patterns of images end."""
        words = tuple(re.split(r"[._/-]", image_files.stem(pattern))[-1] for pattern in self.image)
        problem = DataError(f"{self.name}: expected `labels`, {NO_NAMES}, got none: give them")
        return Stated(problem=problem, channels=words if {*map(str.casefold, words)} <= {*MODALITIES} else ())


def _names(pattern: str) -> list[str]:
    """Returns the names in braces of a pattern; raises ValueError for braces without a name."""
    parts = list(_PART.finditer(pattern))
    if any(part[4] for part in parts):
        raise ValueError(f"expected names in braces such as {{case}}, got {pattern!r}: close each brace")
    return [part[1] for part in parts if part[1]]


def _num_letters(pattern: str) -> int:
    """Returns the letters of a pattern outside names in braces and `*`."""
    return sum(len(part[3] or "") for part in _PART.finditer(pattern))


def _filled(pattern: str, names: Mapping[str, str]) -> str:
    """Returns a pattern with the texts of its names."""
    return _PART.sub(lambda part: names[part[1]] if part[1] else part[0], pattern)


def _regex(pattern: str, is_rated: bool) -> re.Pattern[str]:
    """Returns the expression that a path below `root` fits, with a group for each name."""
    text = ""
    named: set[str] = set()
    for part in _PART.finditer(pattern):
        name, star, plain, _ = part.groups()
        if name:
            letters = "[^/._-]+" if is_rated and name == RATER else "[^/]+"
            text += f"(?P={name})" if name in named else f"(?P<{name}>{letters})"
            named.add(name)
        else:
            text += "[^/]*" if star else re.escape(plain)
    return re.compile(text)


def _last_part(rater: str) -> str:
    """Returns the last number or word of a rater's name, without zeros before it: `1` of `rater-01`."""
    return (re.findall(r"0*([0-9]+|[^\W\d_]+)", rater.casefold()) or [rater])[-1]
