"""Computes content identities and the random draws that depend on them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def _canonical(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return float.hex(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(value[key]) for key in value}
    if isinstance(value, Sequence):
        return [_canonical(item) for item in value]
    raise TypeError(f"an identity cannot hold a {type(value).__name__}: {value!r}")


def digest(payload: Any) -> str:
    """Returns 16 hex digits of blake2b over canonical JSON: keys sorted, floats by `float.hex`, tuples as lists.

    >>> digest({"b": 1, "a": (0.5, None)}) == digest({"a": [0.5, None], "b": 1})
    True
    """
    text = json.dumps(_canonical(payload), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def window_generator(seed: int, fingerprint: str, window: int) -> "torch.Generator":
    """Returns the CPU generator of one window's draws, seeded only by seed, the case's content and the window's number.

    So budgets, models and ablations start from common random numbers.
    """
    import torch

    return torch.Generator().manual_seed(int(digest(["draw", seed, fingerprint, window]), 16) >> 1)
