"""What each parameter name means and which values it takes: the same in Python, job files and columns."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Check = Callable[[Any], str | None]


@dataclass(frozen=True)
class Parameter:
    """A parameter's meaning, and a check that returns None or what was expected instead."""

    meaning: str
    check: Check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _intensity(value: Any) -> str | None:
    if _is_number(value) and 0 <= value <= 1:
        return None
    hint = f". Did you mean {value:g}/255?" if _is_number(value) and 1 < value <= 255 else ""
    return f"expected a number in [0, 1] or a fraction like 8/255, got {value!r}{hint}"


def _count(value: Any) -> str | None:
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return None if valid else f"expected a whole number of at least 1, got {value!r}"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"expected true or false, got {value!r}"


PARAMETERS: Mapping[str, Parameter] = {
    "eps": Parameter("radius of the L-infinity ball, on the [0, 1] intensity scale", _intensity),
    "std": Parameter("standard deviation of the noise, on the [0, 1] intensity scale", _intensity),
    "step_size": Parameter("length of a step, on the [0, 1] intensity scale", _intensity),
    "steps": Parameter("gradient steps", _count),
    "random_start": Parameter("begin at a uniform draw from the ball", _flag),
    "targeted": Parameter("labels are the target to reach instead of the truth to leave", _flag),
}
