"""Checks values of parameters, with a complaint that says what was expected, and gives equal values one form."""

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from freqbench.attacks.core.targets import are_classes, canonical
from freqbench.core.errors import unknown
from freqbench.core.limits import is_number

Check = Callable[[Any], str | None]


def expecting(expected: str, is_valid: Callable[[Any], bool]) -> Check:
    """Returns a check, true where `is_valid`, whose complaint names the expected and the actual value."""
    return lambda value: None if is_valid(value) else f"expected {expected}, got {value!r:.300}"


def one_known(kind: str, known: Collection[str]) -> Check:
    """Returns a check for a name of a `kind` in a table of those `known`; its complaint suggests the nearest one."""

    def check(value: Any) -> str | None:
        is_known = isinstance(value, str) and value in known
        return None if is_known else unknown(kind, str(value), known)

    return check


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def count_of(least: int) -> Check:
    """Returns a check for a whole number of at least `least`."""
    return expecting(f"a whole number of at least {least}", lambda value: _is_count(value) and value >= least)


def number(range_: str, is_valid: Callable[[float], bool]) -> Check:
    """Returns a check for a finite number that `is_valid`, which `range_` says in words."""
    return expecting(f"a number {range_}", lambda value: is_number(value) and is_valid(value))


def intensity(value: Any) -> str | None:
    """Checks for a `value` that is a number on the [0, 1] intensity scale."""
    if is_number(value) and 0 <= value <= 1:
        return None
    hint = f". Did you mean {value:g}/255?" if is_number(value) and 1 < value <= 255 else ""
    return f"expected a number in [0, 1] or a fraction like 8/255, got {value!r:.300}{hint}"


def step_size(value: Any) -> str | None:
    """Checks for a `value` that is a number on the [0, 1] intensity scale, or a part of eps such as `eps/4`."""
    is_part = isinstance(value, str) and re.fullmatch(r"eps/([0-9]+\.?[0-9]*|\.[0-9]+)", value)
    if is_part and is_number(part := float(value[4:])) and part > 0:
        return None
    complaint = intensity(value)
    return complaint and complaint.replace("8/255, got", "2/255, or eps/4 for a quarter of eps, got")


def _is_schedule(value: Any) -> bool:
    pairs = value if isinstance(value, tuple | list) else ()
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        return False
    factors, shares = zip(*pairs, strict=True)
    if not all(map(is_number, (*factors, *shares))):
        return False
    return factors[-1] == min(factors) == 1 and min(shares) > 0 and math.isclose(sum(shares), 1)


def some_of(kind: str, known: Sequence[str], example: str) -> Check:
    """Returns a check for a list of distinct names of a `kind` in a table of those `known`; `example` shows some."""

    def check(value: Any) -> str | None:
        listed = value if isinstance(value, tuple | list) else ()
        for name in listed:
            if name not in known:
                return unknown(kind, str(name), known)
        if listed and len(set(listed)) == len(listed):
            return None
        return (
            f"expected names such as {example}, each once (in a job file a list of lists, [[{example}]]), got "
            f"{value!r:.300}"
        )

    return check


def _are_channels(value: Any) -> bool:
    listed = value if isinstance(value, tuple | list) else (value,)
    valid = listed and all(type(channel) is int and channel >= 0 for channel in listed)
    return bool(valid) and len(set(listed)) == len(listed)


def block(number: int, word: str) -> Check:
    """Returns a check for the side of a block, or for `number` sides; `word` is the number in letters."""

    def is_block(value: Any) -> bool:
        sides = value if isinstance(value, tuple | list) else [value]
        return len(sides) in (1, number) and all(map(_is_count, sides))

    return expecting(f"a whole number of at least 1, or {word} of them", is_block)


def one_of(*words: str) -> Check:
    """Returns a check for one of several words."""
    return expecting(f"{', '.join(words[:-1])} or {words[-1]}", lambda value: value in words)


def _is_spacing(value: Any) -> bool:
    sides = value if isinstance(value, tuple | list) else ()
    return len(sides) == 3 and all(is_number(side) and side > 0 for side in sides)


def each_once(value: int | Sequence[int]) -> tuple[int, ...]:
    """Returns classes or channels, one number as a `value` or several, sorted, each once."""
    return (value,) if isinstance(value, int) else tuple(sorted(set(value)))


def as_block(value: int | Sequence[int]) -> int | tuple[int, ...]:
    """Returns one side if all of the `value` are equal, else the tuple of sides."""
    sides = (value,) if isinstance(value, int) else tuple(value)
    return sides[0] if len(set(sides)) == 1 else sides


def step_length(step_size: float | str, eps: float) -> float:
    """Returns the length of a `step_size` on the [0, 1] intensity scale; `eps/4` is a quarter of the radius."""
    return eps / float(step_size.removeprefix("eps/")) if isinstance(step_size, str) else step_size


count = count_of(1)
odd = expecting("an odd whole number of at least 1", lambda value: _is_count(value) and value % 2 == 1)
flag = expecting("true or false", lambda value: isinstance(value, bool))
weight = number("of at least 0", lambda value: value >= 0)
ratio = number("of at least 0 and below 1", lambda value: 0 <= value < 1)
share = number("in [0, 1]", lambda value: 0 <= value <= 1)
part = number("above 0 and at most 1", lambda value: 0 < value <= 1)
growing = number("of at least 1", lambda value: value >= 1)
positive = number("above 0", lambda value: value > 0)
quantum = number("above 0 on the DCT scale of 0..255 intensities", lambda value: value > 0)
schedule = expecting(
    "pairs of a factor of eps, at least 1 and at last 1, and a share of the steps, together 1, such as "
    "[[2, 0.3], [1.5, 0.3], [1, 0.4]] (in a job file inside one list more)",
    _is_schedule,
)
channels = expecting(
    "a channel or some of them, each once, counted from 0 (in a job file a list of lists, [[0, 1]])", _are_channels
)
three_sides = block(3, "three"), as_block
models = expecting(
    "names of models, each once (in a job file a list of lists, [[unetr, segresnet]])",
    lambda value: (
        isinstance(value, tuple) and len(set(value)) == len(value) and all(isinstance(name, str) for name in value)
    ),
)
spacing = expecting("three numbers above 0 (in a job file a list of lists, [[1, 1, 3]])", _is_spacing)
organs = expecting("a list of classes (in a job file a list of lists, [[1, 2], [3]])", are_classes)
target = expecting(
    "least-likely, next-class, {swap: {a: b}} with two different classes or {erase: a} with one beside background",
    lambda value: canonical(value) is not None,
)
