"""Reads folders of images and label maps that a pattern of their names pairs."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from freqbench.core.errors import DataError, MissingDataError
from freqbench.core.files import storage
from freqbench.data import image_files
from freqbench.data.base import Pattern, matched
from freqbench.data.loaders.folder import CaseFiles, ListedFolder, UnlabelledError

SPLIT, PATIENT = "split", "patient"
NO_NAMES = "the number of classes or their names, background first, as label maps do not state them"

_PART = re.compile(r"\{(\w+)\}|(\*)|([^{}*]+)|([{}])")


class Pairs(ListedFolder):
    """Images and label maps of any folder whose names pair them.

    A pattern is a path below `root` with names in braces, each of which stands for the same text in all patterns:
    `{case}.nii.gz` and `{case}_seg.nii.gz`; `{case}/imaging.nii.gz` and `{case}/segmentation.nii.gz` (KiTS);
    `images/{case}.nii.gz` and `labels/{case}.nii.gz`. A `*` is any text within a name. Several names make up the
    case's: `{patient}/{visit}/t1.nii.gz` is `patient_visit`. `{patient}` is its patient, `{split}` its split; without
    the latter all cases are of the split `test`. A file belongs to the pattern with the most letters that fits it.

    Attributes:
        image: the images' pattern, or one per channel in the order of the network's training.
        label: the label maps' pattern; not needed with `reference: prediction`.
        labels: names of all classes, background first, or their number.
    """

    loader: ClassVar[str] = "pairs"

    image: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    label: Pattern | None = None

    @field_validator("image", mode="before")
    @classmethod
    def _one_channel(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _patterns_fit(self) -> "Pairs":
        if self.reference == "label" and self.label is None:
            raise ValueError("expected `label`, the pattern of the label maps: give it, or set reference: prediction")
        patterns = [*self.image, *([self.label] if self.label else [])]
        if len(set(patterns)) < len(patterns):
            raise ValueError(f"expected different patterns, got {patterns}: change one")
        names = [sorted(set(_names(pattern))) for pattern in patterns]
        for pattern, wanted in zip(patterns, names, strict=True):
            if wanted != names[0] or not set(wanted) - {SPLIT}:
                raise ValueError(
                    f"expected a name in braces such as {{case}}, the same in each pattern, got {pattern!r}: change it"
                )
        return self

    def splits(self) -> Mapping[str, Sequence[Any]]:
        """Returns the cases by their split, sorted; raises MissingDataError if no file fits the patterns."""
        patterns = [*self.image, *([self.label] if self.label else [])]
        root, shown = self._root(), " or ".join(self.image)
        fitted = {pattern: _regex(pattern) for pattern in sorted(patterns, key=_letters, reverse=True)}
        files: dict[tuple[str, ...], dict[str, str]] = {}
        for path in storage.list_tree(root, max(pattern.count("/") for pattern in patterns) + 1):
            for pattern, regex in fitted.items():
                is_image = path.endswith(image_files.SUFFIXES)
                if is_image and (match := matched(regex.fullmatch, path, f"{root}: {pattern:.160}")):
                    found = files.setdefault(tuple(match[name] for name in self._all_names), {})
                    if pattern in found:
                        raise DataError(
                            f"{root}: expected one file for {pattern}, got {found[pattern]} and {path}: make the "
                            "pattern tell them apart"
                        )
                    found[pattern] = path
                    break
        splits: dict[str, list[CaseFiles]] = {}
        for texts, found in sorted(files.items()):
            names = dict(zip(self._all_names, texts, strict=True))
            if self.reference == "prediction" and not any(pattern in found for pattern in self.image):
                continue
            paths = (found.get(pattern) or _filled(pattern, names) for pattern in self.image)
            image, *further = (storage.join(root, path) for path in paths)
            label = storage.join(root, found[self.label]) if self.label in found else None
            case_id = "_".join(text for name, text in names.items() if name != SPLIT)
            patient = self.patient_of(case_id, names.get(PATIENT))
            case = CaseFiles(case_id, patient, image, label, further=tuple(further))
            splits.setdefault(names.get(SPLIT, "test"), []).append(case)
        if not any(pattern in found for found in files.values() for pattern in self.image):
            raise MissingDataError(f"{root}: expected images {shown}, found none: check `root` and `image`")
        return splits

    @cached_property
    def _all_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_names(self.image[0])))

    def _listed_labels(self) -> Mapping[int, str]:
        raise DataError(f"{self.name}: expected `labels`, {NO_NAMES}, got none: give them")

    def _case_id(self, line: Any) -> str:
        return str(line.case_id)

    def _parsed(self, line: Any) -> CaseFiles:
        if self.reference == "label" and line.label is None:
            raise UnlabelledError(
                f"{self._root()}: expected a label map of case {line.case_id}, found no {self.label}: add it, leave "
                "the case out by `cases`, or set reference: prediction"
            )
        return line


def _names(pattern: str) -> list[str]:
    """Returns the names in braces of a pattern; raises ValueError for braces without a name."""
    parts = list(_PART.finditer(pattern))
    if any(part[4] for part in parts):
        raise ValueError(f"expected names in braces such as {{case}}, got {pattern!r}: close each brace")
    return [part[1] for part in parts if part[1]]


def _regex(pattern: str) -> re.Pattern[str]:
    text, named = "", set[str]()
    for part in _PART.finditer(pattern):
        name, star, plain, _ = part.groups()
        if name:
            text += f"(?P={name})" if name in named else f"(?P<{name}>[^/]+)"
            named.add(name)
        else:
            text += "[^/]*" if star else re.escape(plain)
    return re.compile(text)


def _letters(pattern: str) -> int:
    return sum(len(part[3] or "") for part in _PART.finditer(pattern))


def _filled(pattern: str, names: Mapping[str, str]) -> str:
    return _PART.sub(lambda part: names[part[1]] if part[1] else part[0], pattern)
