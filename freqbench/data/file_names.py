"""Tells from names which files are channels of one image and which are label maps, and checks the latter's values."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from freqbench.core.errors import DataError
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.data import image_files

Texts = tuple[str, ...]  # texts of a path that name a case together
NAMES = ("{site}", "{part}", "{group}", "{case}")
CASE = "{case}"
SPLIT = "{split}"
RATER = "{rater}"
MOST_VALUES = 256  # different values of a label map
FEW_VALUES = 16  # up to here a map of whole values is a label map in any case; beyond, a scan of eight bits has as many
MODALITIES = (
    *("flair", "t2f", "t1ce", "t1gd", "t1c", "t1n", "t1w", "t1", "t2w", "t2"),
    *("ct", "pet", "pt", "suv", "dwi", "adc", "hbv", "cbf", "cbv", "swi", "pd"),
)
"""Modalities in the order that channels get if names tell them; BraTS 2023 has its own order, BRATS_2023."""
BRATS_2023 = ("t1n", "t1c", "t2w", "t2f")
_WORD = "d?segm?|segmentations?|masks?|labels?|label[._-]?maps?|gts?|ground[._-]?truths?|annotations?|rois?"
_MASK = re.compile(rf"(?:{_WORD})|(?P<before>.+?)[._-]+(?:{_WORD})|(?:{_WORD})(?:[._-]+|(?=[0-9]))(?P<behind>.+)", re.I)
_MASK_FOLDER = re.compile(rf"(?:{_WORD})(?:Tr|Va|Ts)?", re.I)
_SPLIT_FOLDER = re.compile(r"train(ing)?|val(id(ation)?)?|test(ing)?", re.I)
_IMAGE = re.compile(r"imag(?:e|es|ing)|img|ct|mri?|scan|vol(?:ume)?|orig|raw")
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>[0-9]{4})")
_BRACES = re.compile(r"\{\w+\}")
_SEPARATORS = "._-"

# A rater, reader or version in the name of a file or folder: `seg1`, `label_v2`, `rater-2`, `readerB`, `expert_jane`.
# Below a folder of label maps a number or letter is enough, below one of raters any name.
_WHO = "raters?|readers?|annotators?|experts?|observers?|radiologists?|graders?|manuals?"
_SHORT = "v|ver|version|r|a|obs"
_RATED = re.compile(
    rf"(?:^|[._-])(?:(?:{_WORD})(?:[._-]?(?:{_SHORT}))?|(?:(?:{_WORD})[._-]?)?(?P<who>{_WHO}))[._-]?"
    r"(?P<rater>[0-9]{1,3}|(?<=[._-])[a-z]|(?-i:(?<=[a-z])[A-Z])|(?(who)(?<=[._-])[a-z0-9]+|(?!)))(?![^._-])",
    re.I,
)
_RATED_BELOW = re.compile(rf"(?:^|[._-])(?:{_SHORT})?(?P<rater>[0-9]{{1,3}}|[a-z])$", re.I)
_RATERS_FOLDER = re.compile(_WHO, re.I)
_RATER_OF_STEM = re.compile(rf"(?:(?:^|[._-])(?:{_SHORT}|{_WHO}))?[._-]*\{{rater\}}", re.I)


def channels_by_case(stems: Sequence[str]) -> dict[str, list[str]] | None:
    """Returns the files of each case, in the order of their channels; None if each file is a case.

    Channels are numbered as nnU-Net does, `_0000`, `_0001`, ..., from 0 without a gap, as many for every case; `stems`
    are names of files without their ending.

    >>> channels_by_case(["a_0001", "b_0000", "a_0000", "b_0001"])
    {'a': ['a_0000', 'a_0001'], 'b': ['b_0000', 'b_0001']}
    >>> channels_by_case(["amos_0501", "amos_0502"])
    """
    cases = _number_channels(stems)
    wanted = [*range(len(next(iter(cases.values()), ())))]
    if not cases or any([*numbers] != wanted for numbers in cases.values()):
        return None
    return {case: [*numbers.values()] for case, numbers in cases.items()}


def lacking_channels(stems: Sequence[str]) -> tuple[str, ...]:
    """Returns names of channels that some cases lack though the numbers of the others look like channels; `stems` are
    names of files without their ending."""
    cases = _number_channels(stems)
    if len(cases) < 2 or sum(0 in numbers for numbers in cases.values()) * 2 <= len(cases):
        return ()
    last = max(map(max, cases.values()))
    lacking = []
    for case, numbers in cases.items():
        lacking += [f"{case}_{number:04d}" for number in range(last + 1) if number not in numbers]
    return tuple(lacking) if len(lacking) < len(stems) else ()


def _number_channels(stems: Sequence[str]) -> dict[str, dict[int, str]]:
    """Returns the names of each case by their channel's number, both in order; empty if a name has none."""
    cases: dict[str, dict[int, str]] = {}
    for stem in sorted(stems):
        if not (match := _CHANNEL.fullmatch(stem)):
            return {}
        cases.setdefault(match["case"], {})[int(match["number"])] = stem
    return dict(sorted(cases.items()))


def is_called_mask(path: str) -> bool:
    """True if a file's name in `path` is that of a label map: `a_seg`, `mask_a`, `segmentation`, `a_seg1`."""
    stem = image_files.stem(path)
    return any((_MASK.fullmatch(stem), _RATED.search(stem)))


@partial(storage.once_each_content, content_of=lambda path: digest(image_files.sha256s(path)))
def classes_in(path: str) -> tuple[int, ...]:
    """Returns the values of the label map at `path`, in order: few, whole, from 0 on, mostly equal neighbours; empty if
    the file is none."""
    try:
        volume = image_files.read_integers(image_files.read_header(image_files.fetch(path)))
    except DataError:
        return ()
    values = np.unique(volume)
    if len(values) > MOST_VALUES:
        return ()
    is_flat = len(values) <= FEW_VALUES or np.mean((volume[:-1] == volume[1:])[volume[:-1] != 0]) > 0.5
    return tuple(map(int, values)) if is_flat else ()


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Patterns of a folder's images and label maps, with `{case}` in the place of a case's name."""

    image: tuple[str, ...]  # one pattern per channel, in their order; none if names do not tell which files are
    label: str  # pattern of the label maps, with `{rater}` for those of several raters
    masks: tuple[str, ...]  # paths of the label maps
    unused: tuple[str, ...]  # patterns of further files beside them


def pairings(paths: Sequence[str]) -> Iterator[Pairing]:
    """Yields the ways in which names pair images and label maps, from the likeliest on.

    Args:
        paths: image files, relative to the folder.
    """
    of_raters = _rater_groups(paths)
    cut = []
    for found in _pairings(paths, {}):
        masks = {*found.masks}
        # `p/seg1` and `p/seg2` are of two raters; `seg-1` beside `img-1` and `seg-2` beside `img-2` are of one pattern.
        if any(0 < sum(path in masks for path in group) < len(group) for group in of_raters.values()):
            cut.append(found)
        else:
            yield found
    if of_raters:
        yield from _pairings(paths, of_raters)
    yield from cut


def _rater_groups(paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns files that differ in a rater alone, and the rater of each, by their path with `{rater}` in its place."""
    groups: dict[str, dict[str, str]] = {}
    for path in paths:
        *folders, file = path.split("/")
        stem = image_files.stem(file)
        parts = [*folders, stem]
        marks = {index: mark for index in range(len(parts)) if (mark := _mark_of_rater(parts, index))}
        of_rater: dict[str, list[int]] = {}
        for index, mark in marks.items():
            of_rater.setdefault(mark["rater"], []).append(index)
        for places in {*map(frozenset, zip(marks)), *map(frozenset, of_rater.values())}:  # one, or all of one rater
            named = [*parts]
            for index in places:
                start, end = marks[index].span("rater")
                named[index] = parts[index][:start] + RATER + parts[index][end:]
            groups.setdefault("/".join(named) + file.removeprefix(stem), {})[path] = marks[min(places)]["rater"]
    return {name: group for name, group in groups.items() if len(group) > 1}


def _mark_of_rater(parts: Sequence[str], index: int) -> re.Match[str] | None:
    """Returns the match that finds the group `rater` in a folder's or file's name, below other folders."""
    part = parts[index]
    above = parts[:index]
    if above and _RATERS_FOLDER.fullmatch(above[-1]):
        return re.fullmatch(f"(?P<rater>[^{_SEPARATORS}]+)", part)
    return _RATED.search(part) or (_RATED_BELOW.search(part) if any(map(_MASK_FOLDER.fullmatch, above)) else None)


def _pairings(paths: Sequence[str], of_raters: Mapping[str, Mapping[str, str]]) -> Iterator[Pairing]:
    """Yields pairings by names, in which the files of several raters count as one label map."""
    rated = set(chain.from_iterable(of_raters.values()))
    called = [*of_raters, *(path for path in paths if path not in rated and _is_mask(path))]
    levels = _varying(called)
    images = sorted({*paths} - {*called} - rated)
    masks: dict[str, dict[Texts, str]] = {}
    for path in called:
        for case in dict.fromkeys(_cases_of_mask(path, levels)):
            masks.setdefault(_pattern(path, case), {})[case] = path
    for label, of_case in sorted(masks.items(), key=_order):
        top, _, below = label.partition("/")
        in_folder = below and not (_is_of_masks(top) or _BRACES.search(top) or "*" in top)
        if of_raters and (in_folder or RATER not in label):
            continue
        if in_folder:
            return  # of a data set in a folder, which is the one to give
        beside = _beside(images, of_case, levels)
        of_most = _of_most(beside, label, len(of_case))
        if not of_most:
            continue
        image = _channels(_merge_suffixes(of_most))
        groups = [of_raters.get(path, {path: ""}) for path in of_case.values()]  # files and raters of each label map
        raters = set(chain.from_iterable(group.values() for group in groups))
        words = re.findall("[0-9]+|[A-Za-z]+", " ".join(of_most))
        if not image and len(raters.intersection(words)) > 1:
            continue  # numbers of images, each with its label map
        rest = {other for other, cases in masks.items() if other != label and cases.keys() & of_case.keys()}
        (shown,) = _merge_suffixes([label])
        unused = {*_merge_suffixes([*beside, *rest])} - {*image, shown}
        files = tuple(chain.from_iterable(groups))
        yield Pairing(image=image, label=shown, masks=files, unused=tuple(sorted(unused)))


def _is_mask(path: str) -> bool:
    """True if a file, or a folder above it, has the name of label maps."""
    *folders, file = path.split("/")
    return any((_MASK.fullmatch(image_files.stem(file)), *map(_MASK_FOLDER.fullmatch, folders)))


def _order(masks: tuple[str, Mapping[Texts, str]]) -> tuple[int, bool]:
    """Returns the key by which label maps are tried: the pattern of the most files first, and one of a mask, which may
    be the brain's or body's, last."""
    pattern, of_case = masks
    return -len(of_case), "mask" in pattern.lower()


def _beside(images: Sequence[str], of_case: Mapping[Texts, str], levels: Sequence[int]) -> dict[str, set[Texts]]:
    """Returns the cases of each pattern of images that have a label map."""
    beside: dict[str, set[Texts]] = {}
    for path in images:
        if case := _case_in(path, of_case, levels):
            beside.setdefault(_pattern(path, case), set()).add(case)
    return beside


def _of_most(beside: Mapping[str, set[Texts]], label: str, num_cases: int) -> list[str]:
    """Returns the patterns of images that lie beside the label maps of half of the cases or more."""
    return [image for image, cases in beside.items() if 2 * len(cases) >= num_cases and _is_beside(image, label)]


def _varying(masks: Sequence[str]) -> tuple[int, ...]:
    """Returns the levels of folders whose names differ between label maps, beside those of splits."""
    at: dict[int, set[str]] = {}
    for path in masks:
        for level, folder in enumerate(path.split("/")[:-1]):
            at.setdefault(level, set()).add(folder)
    return tuple(i for i, names in at.items() if len(names) > 1 and not all(map(_SPLIT_FOLDER.fullmatch, names)))


def _cases_of_mask(path: str, levels: Sequence[int]) -> Iterator[Texts]:
    """Yields the texts that may name the case of a label map: of its file or folder, or of several folders."""
    *folders, file = path.split("/")
    rated = image_files.stem(file)
    stem = _RATER_OF_STEM.sub("", rated).strip(_SEPARATORS) if RATER in rated else rated
    match = _MASK.fullmatch(stem)
    name = (match["before"] or match["behind"]) if match else stem
    varying = tuple(folders[level] for level in levels if level < len(folders))
    if name:
        yield (name,)
        if varying and not any(_place_of(*two) is not None for part in varying for two in ((name, part), (part, name))):
            yield (*varying, name)
    if match or stem != rated:
        yield from ((folder,) for folder in reversed(folders) if not _is_of_masks(folder))
        if len(varying) > 1:
            yield varying


def _case_in(path: str, cases: Mapping[Texts, str], levels: Sequence[int]) -> Texts | None:
    """Returns the case of most letters whose texts a path holds between separators."""
    *folders, file = path.split("/")
    varying = tuple(folders[level] for level in levels if level < len(folders))
    runs = [*_runs(image_files.stem(file))]
    texts: list[Texts] = [*zip(chain.from_iterable(map(_runs, folders))), *zip(runs), varying]
    texts += [(*varying, run) for run in runs]
    return max((case for case in texts if case in cases), key=lambda case: len("".join(case)), default=None)


def _runs(part: str) -> Iterator[str]:
    """Yields the beginnings and ends of a name, at its separators and before its last number."""
    ends = [index for index, letter in enumerate(part) if letter in _SEPARATORS]
    yield part
    yield from (part[:index] for index in ends)
    yield from (part[index + 1 :] for index in ends)
    if match := re.fullmatch(r"[A-Za-z]+([0-9].*)", part):
        yield match[1]


def _place_of(name: str, text: str) -> int | None:
    """Returns the place of a text between separators in a name; None if it is not there."""
    match = re.search(rf"(?<![^{_SEPARATORS}]){re.escape(text)}(?![^{_SEPARATORS}])", name)
    return match.start() if match else None


def _pattern(path: str, case: Texts) -> str:
    """Returns a path with names in braces for a case's texts and `{split}`; `*` for a folder called by a part of it."""
    *folders, file = path.split("/")
    stem = image_files.stem(file)
    texts = sorted(zip(NAMES[-len(case) :], case, strict=True), key=lambda item: -len(item[1]))
    parts = []
    for part in (*folders, stem):
        replaced = part
        for name, text in texts:
            start = _place_of(replaced, text)
            if start is None and text[0].isdigit() and replaced.endswith(text) and replaced[: -len(text)].isalpha():
                start = len(replaced) - len(text)  # a number at the end
            if start is not None:
                replaced = replaced[:start] + name + replaced[start + len(text) :]
        if part is not stem and _SPLIT_FOLDER.fullmatch(part):
            replaced = SPLIT
        elif part is not stem and replaced == part and any(_place_of(text, part) is not None for text in case):
            replaced = "*"
        parts.append(replaced)
    return "/".join(parts) + file.removeprefix(stem)


def _is_beside(image: str, label: str) -> bool:
    """True if patterns have the same names and differ in no folder but that of the label maps and its counterpart."""
    if set(_BRACES.findall(image)) != set(_BRACES.findall(label)) - {RATER}:
        return False
    of_image = image.split("/")[:-1]
    of_label = label.split("/")[:-1]
    others = [folder for folder in of_label if folder not in of_image]
    counterparts = [folder for folder in of_image if folder not in of_label]
    case = [CASE] if RATER in label else []  # `images/a`, `labels/a/rater1`
    is_told = all(folder in case or _is_of_masks(folder) for folder in others)
    return is_told and len(counterparts) <= max(len(others), not of_label)


def _is_of_masks(folder: str) -> bool:
    """True if the name of a folder is that of one with label maps, or of a rater's."""
    return any((_MASK_FOLDER.fullmatch(folder), _RATERS_FOLDER.fullmatch(folder), RATER in folder))


def _merge_suffixes(patterns: Sequence[str]) -> list[str]:
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
    stems = {image_files.stem(pattern.replace(".nii*", ".nii")): pattern for pattern in patterns}
    if len(stems) == len(patterns) and (channels := channels_by_case(list(stems))) and len(channels) == 1:
        return tuple(stems[stem] for stem in next(iter(channels.values())))
    modalities = {re.split(r"[._-]", stem)[-1].lower(): pattern for stem, pattern in stems.items()}
    for order in (BRATS_2023, MODALITIES):
        if len(modalities) == len(patterns) and modalities.keys() <= set(order):
            return tuple(modalities[name] for name in order if name in modalities)
    words = {stem: re.split(r"[._-]", stem.lower()) for stem in stems}
    called = [pattern for stem, pattern in stems.items() if any(map(_IMAGE.fullmatch, words[stem]))]
    bare = [pattern for pattern in patterns if image_files.stem(pattern.replace(".nii*", ".nii")) == CASE]
    return tuple(next((only for only in (called, bare) if len(only) == 1), ()))
