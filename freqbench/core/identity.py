"""Computes content identities and the random draws that depend on them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class OfProcess(str):
    """An identity that holds in this process alone, as does each digest of it: no disk keeps it, and rows say `why`."""

    why: str

    def __new__(cls, text: str, why: str = "") -> "OfProcess":  # noqa: D102
        made = super().__new__(cls, text)
        made.why = why
        return made


def _canonical(value: Any, met: list[OfProcess]) -> Any:
    if isinstance(value, OfProcess):
        met.append(value)
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return float.hex(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(value[key], met) for key in value}
    if isinstance(value, Sequence):
        return [_canonical(item, met) for item in value]
    raise TypeError(f"an identity cannot hold a {type(value).__name__}: {value!r}")


def digest(payload: Any) -> str:
    """Returns 16 hex digits of blake2b over canonical JSON: keys sorted, floats by `float.hex`, tuples as lists.

    It is `OfProcess` if anything in the payload is.

    >>> digest({"b": 1, "a": (0.5, None)}) == digest({"a": [0.5, None], "b": 1})
    True
    """
    met: list[OfProcess] = []
    text = json.dumps(_canonical(payload, met), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digits = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return OfProcess(digits, met[0].why) if met else digits


def window_generator(seed: int, fingerprint: str, window: int) -> "torch.Generator":
    """Returns the CPU generator of one window's draws, by seed, the case's `fingerprint` and the window's number alone:
    random numbers are common."""
    import torch

    return torch.Generator().manual_seed(int(digest(["draw", seed, fingerprint, window]), 16) >> 1)
