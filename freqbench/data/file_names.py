"""Tells from names which files are channels of one image and which are label maps, and checks the latter's values."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from freqbench.core import storage
from freqbench.core.errors import DataError
from freqbench.data import nifti

CASE, SPLIT = "{case}", "{split}"
MOST_VALUES = 256  # different values of a label map

MODALITIES = (
    *("flair", "t2f", "t1ce", "t1gd", "t1c", "t1n", "t1w", "t1", "t2w", "t2"),
    *("ct", "pet", "pt", "suv", "dwi", "adc", "hbv", "cbf", "cbv", "swi", "pd"),
)
"""Modalities in the order that channels get if names tell them; BraTS 2023 has its own order, BRATS_2023."""
BRATS_2023 = ("t1n", "t1c", "t2w", "t2f")

_WORD = "d?segm?|segmentations?|masks?|labels?|label[._-]?maps?|gts?|ground[._-]?truths?|annotations?|rois?"
_MASK = re.compile(
    rf"(?:{_WORD})|(?P<before>.+?)[._-]+(?:{_WORD})|(?:{_WORD})(?:[._-]+|(?=[0-9]))(?P<behind>.+)", re.IGNORECASE
)
_MASK_FOLDER = re.compile(rf"(?:{_WORD})(?:Tr|Va|Ts)?", re.IGNORECASE)
_SPLIT_FOLDER = re.compile(r"train(ing)?|val(id(ation)?)?|test(ing)?", re.IGNORECASE)
_IMAGE = re.compile(r"imag(?:e|es|ing)|img|ct|mri?|scan|vol(?:ume)?|orig|raw")
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>[0-9]{4})")
_SEPARATORS = "._-"


def channels_by_case(stems: Sequence[str]) -> dict[str, list[str]] | None:
    """Returns the files of each case, in the order of their channels; None if each file is a case.

    Channels are numbered as nnU-Net does, `_0000`, `_0001`, ..., from 0 without a gap, as many for every case.

    >>> channels_by_case(["a_0001", "b_0000", "a_0000", "b_0001"])
    {'a': ['a_0000', 'a_0001'], 'b': ['b_0000', 'b_0001']}
    >>> channels_by_case(["amos_0501", "amos_0502"])
    """
    cases = _numbered(stems)
    if not cases:
        return None
    wanted = [*range(len(next(iter(cases.values()))))]
    if any(sorted(numbers) != wanted for numbers in cases.values()):
        return None
    return {case: [numbers[number] for number in wanted] for case, numbers in cases.items()}


def lacking_channels(stems: Sequence[str]) -> tuple[str, ...]:
    """Returns names of channels that some cases lack though the numbers of the others look like channels."""
    cases = _numbered(stems)
    if len(cases) < 2 or sum(0 in numbers for numbers in cases.values()) * 2 <= len(cases):
        return ()
    last = max(map(max, cases.values()))
    lacking = [f"{case}_{i:04d}" for case, numbers in cases.items() for i in range(last + 1) if i not in numbers]
    return tuple(lacking) if len(lacking) < len(stems) else ()


def _numbered(stems: Sequence[str]) -> dict[str, dict[int, str]]:
    """Returns the names of each case by their channel's number; empty if a name has none."""
    cases: dict[str, dict[int, str]] = {}
    for stem in stems:
        match = _CHANNEL.fullmatch(stem)
        if not match:
            return {}
        cases.setdefault(match["case"], {})[int(match["number"])] = stem
    return dict(sorted(cases.items()))


def is_called_mask(path: str) -> bool:
    """True if the name of a file is that of a label map: `a_seg`, `mask_a`, `segmentation`."""
    return _MASK.fullmatch(nifti.stem(path)) is not None


def holds_classes(path: str) -> bool:
    """True if a file holds few different values, all whole and none below 0, as a label map does."""
    return _values(path, storage.sha256(path)) is not None


def classes_in(path: str) -> tuple[int, ...]:
    """Returns the values of a label map, in order; empty if it is none."""
    return _values(path, storage.sha256(path)) or ()


@lru_cache(maxsize=4096)
def _values(path: str, content_sha256: str) -> tuple[int, ...] | None:
    try:
        voxels = nifti.read_integers(nifti.read_header(storage.fetch(path, content_sha256)))
    except DataError:
        return None
    values = np.unique(voxels)
    return tuple(int(value) for value in values) if len(values) <= MOST_VALUES else None


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Patterns of a folder's images and label maps, with `{case}` in the place of a case's name.

    Attributes:
        image: one pattern per channel, in their order; none if names do not tell which files are.
        label: pattern of the label maps.
        masks: paths of the label maps.
        unused: patterns of further files beside them.
    """

    image: tuple[str, ...]
    label: str
    masks: tuple[str, ...]
    unused: tuple[str, ...]


def pairings(paths: Sequence[str]) -> Iterator[Pairing]:
    """Yields the ways in which names pair images and label maps below a folder, from the likeliest on.

    Args:
        paths: NIfTI files, relative to the folder.
    """
    masks: dict[str, dict[str, str]] = {}  # path by case, by pattern
    for path in paths:
        for case in dict.fromkeys(_cases_of_mask(path)):
            masks.setdefault(_pattern(path, case), {})[case] = path
    called = {path for of_case in masks.values() for path in of_case.values()}
    images = [path for path in paths if path not in called]
    # The pattern of the most files goes first, and one of a mask, which may be the brain's or body's, last.
    for label, of_case in sorted(masks.items(), key=lambda item: (-len(item[1]), "mask" in item[0].lower())):
        beside: dict[str, set[str]] = {}
        for path in images:
            if case := _case_in(path, of_case):
                beside.setdefault(_pattern(path, case), set()).add(case)
        of_most = [
            pattern
            for pattern, cases in beside.items()
            if 2 * len(cases) >= len(of_case) and (SPLIT in pattern) == (SPLIT in label)
        ]
        tops = {pattern.partition("/")[0] for pattern in (label, *of_most) if "/" in pattern}
        is_above = len(tops) == 1 and "{" not in "".join(tops) and all("/" in pattern for pattern in of_most)
        if of_most and not is_above:  # the folder of the data set is the one that all files share
            image = _channels(_with_suffixes(of_most))
            rest = {other for other, cases in masks.items() if other != label and cases.keys() & of_case.keys()}
            (shown,) = _with_suffixes([label])
            unused = {*_with_suffixes([*beside, *rest])} - {*image, shown}
            yield Pairing(image=image, label=shown, masks=tuple(of_case.values()), unused=tuple(sorted(unused)))


def _cases_of_mask(path: str) -> Iterator[str]:
    """Yields names that the case of a label map may have, if a file or its folder is called like one."""
    *folders, file = path.split("/")
    stem = nifti.stem(file)
    match = _MASK.fullmatch(stem)
    if match and (name := match["before"] or match["behind"]):
        yield name
    elif not match and any(map(_MASK_FOLDER.fullmatch, folders)):
        yield stem
    if match:
        yield from (folder for folder in reversed(folders) if not _MASK_FOLDER.fullmatch(folder))


def _case_in(path: str, cases: Mapping[str, str]) -> str | None:
    """Returns the longest case whose name a path holds between separators."""
    *folders, file = path.split("/")
    found = [case for part in (*folders, nifti.stem(file)) for case in _runs(part) if case in cases]
    return max(found, key=len, default=None)


def _runs(part: str) -> Iterator[str]:
    """Yields the beginnings and ends of a name, at its separators and before its last number."""
    ends = [index for index, letter in enumerate(part) if letter in _SEPARATORS]
    yield part
    yield from (part[:index] for index in ends)
    yield from (part[index + 1 :] for index in ends)
    if match := re.fullmatch(r"[A-Za-z]+([0-9].*)", part):
        yield match[1]


def _pattern(path: str, case: str) -> str:
    """Returns a path with `{case}` for the case's name in its parts, and `{split}` for a folder of a split."""
    *folders, file = path.split("/")
    stem = nifti.stem(file)
    parts = [SPLIT if _SPLIT_FOLDER.fullmatch(part) else _replaced(part, case) for part in folders]
    parts.append(_replaced(stem, case))
    return "/".join(parts) + file.removeprefix(stem)


def _replaced(part: str, case: str) -> str:
    if part == case or (part.startswith(case) and part[len(case)] in _SEPARATORS):
        return CASE + part[len(case) :]
    before = part[: -len(case)]
    is_end = part.endswith(case) and (before[-1:] in _SEPARATORS or (before.isalpha() and case[0].isdigit()))
    return before + CASE if is_end and before else part


def _with_suffixes(patterns: Sequence[str]) -> list[str]:
    """Returns patterns, with `.nii*` for both of two that differ in `.nii` and `.nii.gz` alone."""
    stems: dict[str, set[str]] = {}
    for pattern in patterns:
        stem = pattern.removesuffix(".gz").removesuffix(".nii")
        stems.setdefault(stem, set()).add(pattern.removeprefix(stem))
    return [stem + (min(suffixes) if len(suffixes) == 1 else ".nii*") for stem, suffixes in stems.items()]


def _channels(patterns: Sequence[str]) -> tuple[str, ...]:
    """Returns the patterns of one image's channels in their order; none if names do not tell which they are."""
    if len(patterns) == 1:
        return tuple(patterns)
    stems = {nifti.stem(pattern.replace(".nii*", ".nii")): pattern for pattern in patterns}
    if len(stems) == len(patterns) and (channels := channels_by_case(list(stems))) and len(channels) == 1:
        return tuple(stems[stem] for stem in next(iter(channels.values())))
    modalities = {re.split(r"[._-]", stem)[-1].lower(): pattern for stem, pattern in stems.items()}
    for order in (BRATS_2023, MODALITIES):
        if len(modalities) == len(patterns) and modalities.keys() <= set(order):
            return tuple(modalities[name] for name in order if name in modalities)
    called = [
        pattern for stem, pattern in stems.items() if any(map(_IMAGE.fullmatch, re.split(r"[._-]", stem.lower())))
    ]
    bare = [pattern for pattern in patterns if nifti.stem(pattern.replace(".nii*", ".nii")) == CASE]
    return tuple(next((only for only in (called, bare) if len(only) == 1), ()))
