"""Checks the numbers of a job, and its size before anything is made: one more digit can mean a grid of years."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from freqbench.core.errors import UserError

VARIABLE = "FREQBENCH_LIMITS"
# Largest sizes of a job, multiplied by the variable's number.
CELLS = 100_000
RECORDS = 10_000_000
MODELS = 1_000
MODULES = 3_000  # modules of a network
VOXELS = 2**31  # voxels of a volume: 8 GiB in float32
WINDOWS = 100_000  # of a volume
FILE = 2**34  # bytes of a fetched file
TABLE = 20_000  # cells of a table in a report

LARGEST = 2**63 - 1


def is_number(value: object) -> bool:
    """True for a finite number, and for a whole one of at most 64 bits; False for true and false."""
    largest = LARGEST if isinstance(value, int) else sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= largest


def whole(text: str) -> int | None:
    """Reads a whole number of at most 18 ASCII digits; None if the text holds anything else."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def wrong_numbers(content: Any, place: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Yields place and complaint of each number in plain values, `content` at `place`, that `is_number` refuses."""
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
    """Refuses, with a UserError, a `count` of more than `limit`, of things that `what` names; FREQBENCH_LIMITS
    multiplies the limit."""
    text = os.environ.get(VARIABLE, "1")
    if not 0 < (factor := whole(text) or 0) < 10**6:
        raise UserError(f"{VARIABLE}: expected a number from 1 to 999999, to multiply all limits, got {text!r:.80}")
    allowed = limit * factor
    if count > allowed:
        advice = f"ask for less, or raise all limits: {VARIABLE}={-(-count // limit)}"
        raise UserError(f"expected at most {allowed:,} {what}, got {count:,}: {advice}")
