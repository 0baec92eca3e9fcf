"""Checks the numbers of a job, and what it comes to before that is made: a number more can be a grid of years."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from freqbench.core.errors import UserError

VARIABLE = "FREQBENCH_LIMITS"
# What a job may come to, times the variable's number.
CELLS = 100_000
RECORDS = 10_000_000
MODELS = 1_000
MODULES = 3_000  # of a network
VOXELS = 2**31  # of a volume: 8 GiB in float32
WINDOWS = 100_000  # of a volume
FILE = 2**34  # bytes of one that is fetched
TABLE = 20_000  # cells of one in a report

LARGEST = 2**63 - 1


def is_number(value: object) -> bool:
    """Whether a value is a finite number, a whole one of 64 bits; true and false are none."""
    largest = LARGEST if isinstance(value, int) else sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= largest


def whole(text: str) -> int | None:
    """Reads a whole number of at most 18 ASCII digits; None where the text holds something else."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def wrong_numbers(content: Any, place: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Place and complaint of each number in plain values that `is_number` does not take."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from wrong_numbers(key, place)
            yield from wrong_numbers(value, (*place, str(key)))
    elif isinstance(content, list | tuple):
        for i, value in enumerate(content):
            yield from wrong_numbers(value, (*place, i))
    elif isinstance(content, int | float) and not isinstance(content, bool) and not is_number(content):
        got = f"{content}" if isinstance(content, float) else f"one of {content.bit_length()} bits"
        yield place, f"expected a finite number, a whole one of at most 18 digits, got {got}"


def require(count: int, limit: int, what: str) -> None:
    """Refuse, with a UserError, more of something than `limit`, which FREQBENCH_LIMITS multiplies."""
    text = os.environ.get(VARIABLE, "1")
    if not 0 < (factor := whole(text) or 0) < 10**6:
        raise UserError(f"{VARIABLE}: expected a whole number from 1 to 999999, by which limits grow, got {text!r:.80}")
    allowed = limit * factor
    if count > allowed:
        raise UserError(
            f"expected at most {allowed:,} {what}, got {count:,}: ask for less, or raise all limits: "
            f"{VARIABLE}={-(-count // limit)}"
        )
