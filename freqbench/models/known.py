"""Remembers on the node's disk which networks passed their checks, as importing MONAI to check them takes seconds."""

import json
import os
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, ValidationError

from freqbench.core import limits, node_cache, storage
from freqbench.core.config import Strict
from freqbench.core.errors import UserError
from freqbench.core.identity import digest


class Checked(Strict):
    """Outcome of a network's check.

    Attributes:
        args: the arguments of its class that are not the class's own defaults.
        migration: the migration of its checkpoint; None if it needs none.
        flops: floating-point operations of a pass over one window.
    """

    args: dict[str, Any]
    migration: str | None
    flops: NonNegativeInt


def place(asked: dict[str, Any]) -> Path | None:
    """Returns the file for the outcome of a check that depends on `asked`, freqbench's code and the libraries.

    Returns None if nothing is kept: FREQBENCH_CACHE_GB is 0, the cache cannot be used (a run reports that), or an
    argument is no plain value.
    """
    with suppress(UserError, TypeError):
        if not node_cache.limit():
            return None
        key = digest([asked, os.environ.get(limits.VARIABLE), _code(), version("monai"), version("torch")])
        return node_cache.part("networks") / f"{key}.json"
    return None


def read(path: Path | None) -> Checked | None:
    """Returns the outcome kept at a path; None if there is none or it cannot be read."""
    if path is None or not path.is_file():  # a pipe has no end
        return None
    try:
        return Checked.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def keep(path: Path | None, found: Checked) -> None:
    """Keeps the outcome of a check; ignores a full or read-only disk, which only costs time at the next command."""
    if path:
        with suppress(OSError):
            storage.write_atomic(str(path), json.dumps(found.model_dump()).encode())


@cache
def _code() -> str:
    """Returns a digest of the modules that make and check networks."""
    hasher = blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
