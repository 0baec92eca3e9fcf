"""Keeps the outcomes of checks of networks on the node's disk: the next command does not check again."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from freqbench.core import limits
from freqbench.core.config import Strict
from freqbench.core.errors import UserError
from freqbench.core.files import node_cache, storage
from freqbench.core.identity import digest

K = TypeVar("K", bound=Strict)


def remembered(
    asked: Mapping[str, Any], kind: type[K], check: Callable[[], K], stays: Callable[[], bool] = lambda: True
) -> K:
    """Returns the outcome of a check: the one on the disk, if it is there and can be read, else that of `check`.

    Args:
        asked: what the outcome depends on, beside freqbench's code and the libraries.
        stays: tells, after the check, if its outcome may be kept.
    """
    path = _place(asked)
    if path and path.is_file():  # a pipe has no end
        with suppress(OSError, ValidationError):
            return kind.model_validate_json(path.read_bytes())
    outcome = check()
    if path and stays():
        with suppress(OSError):  # a full or read-only disk only costs time at the next command
            storage.write_atomic(str(path), json.dumps(outcome.model_dump()).encode())
    return outcome


def _place(asked: Mapping[str, Any]) -> Path | None:
    """Returns the file for an outcome; None if nothing is kept.

    That is so if FREQBENCH_CACHE_GB is 0, the cache cannot be used (a run reports that), or an argument is no plain
    value.
    """
    with suppress(UserError, TypeError):
        if not node_cache.limit():
            return None
        key = digest([asked, os.environ.get(limits.VARIABLE), _code(), version("monai"), version("torch")])
        return node_cache.part("networks") / f"{key}.json"
    return None


@cache
def _code() -> str:
    """Returns a digest of the modules that make and check networks."""
    hasher = blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
