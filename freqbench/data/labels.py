"""Maps the values in label maps to classes: by number, by name, by the key `label_map`, or to no class (`ignore`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError
from freqbench.core.types import IGNORED
from freqbench.data import image_files
from freqbench.data.headers import Header
from freqbench.ops.regions import MOST_REGIONS, code_of, numbers_of

MOST_NAMED = 20  # values that a refusal or a note lists
OTHER = "other"  # the key of `label_map` for all values that are not in it
LabelMap = Mapping[int | Literal["other"], int | Literal["background"]]
Named = int | Sequence[str] | None  # the number of classes, or their names


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Rule by which label maps are read: the classes, and the class of each value that a map may hold."""

    names: tuple[str, ...]  # names of the classes, background first
    of_value: Mapping[int, int]  # class of each allowed value; IGNORED for a value that does not count
    value_names: Mapping[int, str]  # of values, as far as the files' own list gives them
    is_mapped: bool = False  # true if the job says the class of each value by `label_map`
    takes_others: bool = False  # true if values that are not in `of_value` are background
    regions: tuple[tuple[int, ...], ...] = ()  # of each class but the background, its parts: `of_value` has codes

    @property
    def moved(self) -> dict[int, int]:
        """The values whose class is not their own number, ignored values aside."""
        return {value: k for value, k in sorted(self.of_value.items()) if k not in (value, IGNORED)}

    @property
    def ignored(self) -> tuple[int, ...]:
        """The values that do not count."""
        return tuple(sorted(value for value, k in self.of_value.items() if k == IGNORED))

    def file_classes(self, header: Header) -> Mapping[int, int]:
        """Returns the class of each value of the map of `header`, by its segments' names if it has some; refuses what
        differs."""
        codes = [code_of([k] if k else []) if self.regions else k for k in range(len(self.names))]
        by_name = {plain(name): code for name, code in zip(self.names, codes, strict=True)}
        stated = {value: by_name.get(plain(name)) for value, name in header.segments.items()}
        if not header.layers and (self.regions or set(stated.values()) <= {None}):
            return self.of_value
        for value, k in stated.items():
            said = self.of_value.get(value)
            if k is None and not (self.is_mapped and said is not None) and not self.takes_others:
                advice = "name it in `labels`, or say its class by `label_map`"
                got = f"got {header.segments[value]!r} (label {value}): {advice}"
                raise DataError(f"{header.path}: expected segments called {few(self.names[1:])}, {got}")
            if self.is_mapped and k is not None and said != k:
                advice = "leave label_map out, or rename the segment"
                rest = f"as the file names its segment, got label_map: {{{value}: {said}}}: {advice}"
                raise DataError(f"{header.path}: expected label {value} to be {self.names[k]}, {rest}")
        by_number = {value: k for value, k in self.of_value.items() if value == 0 or k == IGNORED}
        return by_number | {value: self.of_value.get(value, 0) if k is None else k for value, k in stated.items()}

    def read(self, header: Header) -> npt.NDArray[np.uint8]:
        """Returns the classes `[H, W, D]` of the label map of `header`, or the codes of its regions; see
        `read_classes`."""
        return read_classes(header, self.file_classes(header), self.takes_others, bool(self.regions))

    def recipe(self) -> dict[str, object]:
        """Returns the labels' part of a case's identity: empty if every value is its own class."""
        parts = {"label_map": [*map(list, self.moved.items())], "ignore": list(self.ignored)}
        parts |= {"regions": [*map(list, self.regions)], "others": [0] if self.takes_others else []}
        return {key: value for key, value in parts.items() if value}

    def notes(self, name: str) -> tuple[str, ...]:
        """Returns a line on values that become other classes, and one on values that do not count; `name` (the
        dataset's) begins each."""
        lines = []
        if self.regions:
            coded = ((value, code) for value, code in sorted(self.of_value.items()) if code not in (0, IGNORED))
            called = ((value, map(self.names.__getitem__, numbers_of(code))) for value, code in coded)
            parts = [f"{self._value_name(value)} in {' and '.join(names)}" for value, names in called]
            lines.append(f"{name}: labels of the files make up regions that may overlap: {few(parts)}")
        elif self.moved:
            kept = [k for value, k in self.of_value.items() if value == k]
            pairs = [f"{self._value_name(value)} -> {k} ({self.names[k]})" for value, k in self.moved.items()]
            others = f"; {', '.join(map(str, sorted(kept)))} as in the files" if kept else ""
            lines.append(f"{name}: labels of the files become classes: {few(pairs)}{others}")
        if self.takes_others:
            lines.append(f"{name}: all other labels of the files become background")
        if self.ignored:
            shown = few([self._value_name(value) for value in self.ignored])
            lines.append(f"{name}: voxels with the label {shown} do not count: not in losses, metrics or success")
        return tuple(lines)

    def _value_name(self, value: int) -> str:
        return f"{value} ({self.value_names[value]})" if value in self.value_names else str(value)


def classes_of(
    where: str, listed: Mapping[int, str], labels: Named, label_map: LabelMap | None, ignore: Sequence[int] = ()
) -> Reading:
    """Decides the classes of a dataset. Raises DataError for names that fit only in part, a value without a class, a
    class without a value.

    Args:
        where: begin of errors.
        listed: names by value in the files' own list.
        labels: names of the job's classes, background first, or their number; names of the list choose its values, and
            all others become background. None: the list's.
        label_map: class of each value; values that it leaves out keep their number. With OTHER, they are background
            unless `labels` counts or names them, or it maps no value.
        ignore: values that do not count.
    """
    takes_others = label_map is not None and OTHER in label_map
    mapped = {value: k for value, k in (label_map or {}).items() if isinstance(value, int) and isinstance(k, int)}
    is_mapped = label_map is not None and not (takes_others and not mapped)
    last = max((value for value in listed if value not in ignore), default=0)  # an ignored one beyond it is no class
    values = {value: name for value, name in sorted(listed.items()) if value <= last}
    names = None if labels is None or isinstance(labels, int) else tuple(labels)
    count = len(names) if names else labels if isinstance(labels, int) else None
    if both := sorted(set(mapped) & set(ignore)):
        raise DataError(f"{where}: expected {both[0]} in one of label_map and ignore, got it in both: leave one out")
    if is_mapped:
        of_value = _mapped_values(where, mapped, {} if takes_others else values, count)
    else:
        of_value = _listed_values(where, names, values, count)
    names = _names(of_value, values, count) if names is None else names
    if ignore and len(names) > IGNORED:
        raise DataError(f"{where}: expected at most {IGNORED} classes beside ignore, got {len(names)}: name fewer")
    if is_mapped:
        _require_whole_map(where, mapped, len(names))
        if count is None:
            _require_no_gap(where, of_value, values, len(names))
    of_value = (dict.fromkeys(values, 0) if takes_others else {}) | of_value | dict.fromkeys(ignore, IGNORED)
    return Reading(names=names, of_value=of_value, value_names=listed, is_mapped=is_mapped, takes_others=takes_others)


def _mapped_values(where: str, mapped: Mapping[int, int], kept: Mapping[int, str], count: int | None) -> dict[int, int]:
    """Returns the class of each value by a map; values that it leaves out, those of a list that are `kept` or of
    `count` classes, keep their number if it is free, and 0 is background."""
    taken = {*mapped.values()}
    of_value = {0: 0, **mapped}
    for value in range(count) if count is not None else kept:
        if value not in of_value and value not in taken:
            of_value[value] = value
        elif value not in of_value and value in kept:
            advice = f"{{{value}: 0}} makes it background, {{{OTHER}: background}} all that are not listed"
            rest = f"as its number is now the class of another, got none: list it: {advice}"
            raise DataError(f"{where}: label_map: expected label {value} ({kept[value]}) in it, {rest}")
    return of_value


def _listed_values(
    where: str, names: Sequence[str] | None, values: Mapping[int, str], count: int | None
) -> dict[int, int]:
    """Returns the class of each value without a map: by the `names` that choose it, else by its place."""
    if names is not None and _chooses(where, names, values):
        wanted = [*map(plain, names)]
        of_value = {value: wanted.index(plain(name)) if plain(name) in wanted else 0 for value, name in values.items()}
        return of_value | {0: 0}
    if count is not None:
        return {value: value for value in range(count)}
    if values and 0 not in values:
        raise DataError(f"{where}: expected a name for label 0, the background, got {values!r}: add it")
    return {value: k for k, value in enumerate(values)}


def _require_whole_map(where: str, mapped: Mapping[int, int], num_classes: int) -> None:
    """Raises DataError for a map to a class that does not exist, or to no class but the background."""
    for value, k in mapped.items():
        if k >= num_classes:
            got = f"got {{{value}: {k}}}: name all classes in `labels`, or map it to one of these"
            raise DataError(f"{where}: label_map: expected classes 0 to {num_classes - 1}, {got}")
    if num_classes < 2:
        raise DataError(f"{where}: label_map: expected a class beside the background, got none: map a label to 1")


def _require_no_gap(where: str, of_value: Mapping[int, int], values: Mapping[int, str], num_classes: int) -> None:
    """Raises DataError for a class that no value has."""
    gap = next((k for k in range(num_classes) if k not in of_value.values()), None)
    if gap is not None:
        value = next(value for value, k in of_value.items() if k > gap)
        raise DataError(
            f"{where}: label_map: expected classes 0, 1, ... without a gap, got none for class {gap}, but class "
            f"{of_value[value]} for label {value} ({values.get(value, 'unnamed')}): list it with another class; 0 "
            "makes it background"
        )


def group_regions(where: str, classes: Reading, regions: Mapping[str, Sequence[int]]) -> Reading:
    """Returns `regions`, each of the values that make it up, in place of their `classes`, background first; raises
    DataError, which begins with `where`, for too many, or of no file."""
    if len(regions) > MOST_REGIONS:
        raise DataError(f"{where}: expected at most {MOST_REGIONS} regions, got {len(regions)}: state fewer")
    known = sorted({k for k in classes.of_value.values() if k != IGNORED})
    if plain(classes.names[0]) in map(plain, regions):
        raise DataError(f"{where}: regions: expected other names than {classes.names[0]}'s, got it: rename the region")
    of_labels: dict[frozenset[int], str] = {}
    for name, members in regions.items():
        if not members:
            raise DataError(f"{where}: regions: {name}: expected labels that make it up, got none: name some")
        if (other := of_labels.setdefault(frozenset(members), name)) != name:
            raise DataError(f"{where}: regions: {name}: expected other labels than {other}'s, got them: leave one out")
        if ignored := sorted(set(members) & set(classes.ignored) - set(known)):
            raise DataError(f"{where}: regions: {name}: expected labels that count, got ignored {ignored[0]}: drop it")
        if strange := sorted(set(members) - set(known) or {0} & set(members)):
            got = f"got {strange[0]}: name it in `labels`, or leave it out"
            raise DataError(f"{where}: regions: {name}: expected labels above 0 of {few([*map(str, known)])}, {got}")

    codes = {IGNORED: IGNORED}
    for k in known:
        codes[k] = code_of(number for number, members in enumerate(regions.values(), 1) if k in members)
    return Reading(
        names=(classes.names[0], *regions),
        of_value={value: codes[k] for value, k in classes.of_value.items()},
        value_names=classes.value_names,
        takes_others=classes.takes_others,
        regions=tuple(map(tuple, regions.values())),
    )


def plain(name: str) -> str:
    """Returns a name without capitals, underscores and dashes, in which the names of one class differ."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _chooses(where: str, names: Sequence[str], listed: Mapping[int, str]) -> bool:
    """True if names choose values of the list, False if they name 0, 1, ... anew; refuses names at other values."""
    if (by_name := {plain(name): value for value, name in listed.items()}).get(plain(names[0]), 0) != 0:
        got = f"got {names[0]!r}, which is label {by_name[plain(names[0])]}: put it first"
        raise DataError(f"{where}: expected `labels` to begin with the background, {listed.get(0)!r}, {got}")
    known = {name: by_name[plain(name)] for name in names[1:] if plain(name) in by_name}
    if known and len(known) == len(names) - 1:
        return True
    if misplaced := [name for name, value in known.items() if value != names.index(name)]:
        strange = next(name for name in names[1:] if name not in known)
        raise DataError(
            f"{where}: expected `labels` of the list's own names, or others for labels 0, 1, ..., got "
            f"{misplaced[0]!r}, which is label {known[misplaced[0]]}, beside {strange!r}, which is none of "
            f"{', '.join(listed.values())}: fix it, or say the class of each label by `label_map`"
        )
    return False


def _names(of_value: Mapping[int, int], listed: Mapping[int, str], count: int | None) -> tuple[str, ...]:
    """Returns the name of each class: of its value in the list, of several joined; background's is that of value 0."""
    names = []
    for k in range(max(of_value.values(), default=0) + 1 if count is None else count):
        own = [listed[value] for value in sorted(of_value) if of_value[value] == k and value in listed]
        fallback = f"class {k}" if k else "background"
        names.append(fallback if not own or count is not None else own[0] if k == 0 else " + ".join(own))
    return tuple(names)


def read_classes(
    header: Header, of_value: Mapping[int, int], takes_others: bool = False, are_codes: bool = False
) -> npt.NDArray[np.uint8]:
    """Returns the classes of a label map `[H, W, D]` by `of_value`, the class of each value, or its code of regions
    (`are_codes`); raises DataError for other values, unless it `takes_others` as 0."""

    def classes_of_layer(voxels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        values, counts = np.unique(voxels, return_counts=True)
        strange = [(int(value), int(n)) for value, n in zip(values, counts, strict=True) if int(value) not in of_value]
        if strange and not takes_others:
            allowed = sorted(of_value)
            expected = f"0 to {allowed[-1]}" if allowed == list(range(len(allowed))) else few([*map(str, allowed)])
            got = few([f"{value} ({n} voxels)" for value, n in strange])
            listed = few([f"{value}: 0" for value, _ in strange])
            advice = f"{{{listed}}} makes them background, {{{OTHER}: background}} all"
            there = f"got {got}: name all classes in `labels`, or say the class of each by `label_map`: {advice}"
            raise DataError(f"{header.path}: expected labels {expected}, {there}")
        return np.array([of_value.get(int(value), 0) for value in values], np.uint8)[np.searchsorted(values, voxels)]

    least = np.iinfo(np.int64).min if takes_others else min(0, *of_value)
    return image_files.merge_layers(header, least, classes_of_layer, are_codes)


def few(words: Sequence[str], most: int = MOST_NAMED) -> str:
    """Returns the first `most` words in a row, and the number of the others."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
