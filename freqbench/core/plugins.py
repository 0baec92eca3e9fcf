"""Imports classes of other packages by `module:Class`, only if the command or worker opened `trusting`."""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from freqbench.core.errors import UserError

TABLES = ("attacks", "datasets", "models", "metrics", "defences")
_TRUSTED = ContextVar("trusted", default=False)
BESIDE: list[str] = []  # folders whose modules jobs may name, which Python searches after all others


def names_class(text: str) -> bool:
    """True if a name is a path to a class: `package.module:Class`."""
    module, colon, name = text.partition(":")
    return bool(colon and module and name) and "/" not in text


def installed_names(table: str) -> Mapping[str, str]:
    """Returns what installed packages add to a table by entry points of `freqbench.TABLE`, with the classes."""
    return {point.name: point.value for point in _entry_points().get(table, ())}


def is_installed(path: str) -> bool:
    """True if an installed package adds the class of a path to a table."""
    return any(path in installed_names(table).values() for table in TABLES)


def package_of(table: str, name: str) -> str:
    """Returns the installed package that adds a name to a table, and its version: `freqbench-example 1.0`."""
    dists = {point.name: point.dist for point in _entry_points()[table] if point.dist}
    return f"{dists[name].name} {dists[name].version}"


@cache
def _entry_points() -> Mapping[str, Sequence[importlib.metadata.EntryPoint]]:
    """Reads the metadata of all installed packages, which takes long, once."""
    points = importlib.metadata.entry_points()
    return {table: [*points.select(group=f"freqbench.{table}")] for table in TABLES}


@contextmanager
def trusting(trusted: bool = True) -> Iterator[None]:
    """Allows or forbids third-party code to run inside the block."""
    token = _TRUSTED.set(trusted)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def import_beside(job: str = "") -> None:
    """Lets modules in the current folder, and beside a trusted job's file, be imported, after all that is installed."""
    for folder in map(str, (Path.cwd(), Path(job).resolve().parent) if job else (Path.cwd(),)):
        if folder not in sys.path:
            sys.path.append(folder)
            BESIDE.append(folder)


def is_trusted() -> bool:
    """True if third-party code may run here."""
    return _TRUSTED.get()


def require_trust(what: str) -> None:
    """Refuses an action that runs third-party code, `what` in the message, unless it is trusted."""
    if not is_trusted():
        reason = "as its code can do all that you can: read it first"
        raise UserError(f"{what}: needs --trust-code (or trust_code: true in the job), {reason}")


def load_class(path: str, base: type) -> type[Any]:
    """Returns the subclass of `base` that `path`, a `module:Class`, names; refuses an untrusted, missing or abstract
    one."""
    if not is_installed(path):
        require_trust(path)
    module, _, name = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # importing a module runs it, and it may raise anything
        got = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        there = f"got {' '.join(got.split())}: install it, put it beside the job, set PYTHONPATH, or fix it"
        raise UserError(f"{path}: expected a module that can be imported, {there}") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        got = "no such name" if cls is None else repr(cls)
        raise UserError(f"{path}: expected a subclass of {base.__module__}.{base.__qualname__}, got {got}")
    if lacking := getattr(cls, "__abstractmethods__", None):
        names = ", ".join(sorted(lacking))
        raise UserError(f"{path}: expected a class with all that {base.__name__} asks for, it lacks {names}")
    return cls


def is_foreign(cls: type) -> bool:
    """True if a class belongs to another package."""
    return not cls.__module__.startswith("freqbench.")


def path_of(cls: type) -> str:
    """Returns the path of a class as a job writes it, `package.module:Class`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def require_class(given: object, base: type) -> None:
    """Refuses a `given` object that is neither a name nor a subclass of `base`, and class paths, which would run
    code."""
    if not isinstance(given, str):
        if not (isinstance(given, type) and issubclass(given, base)):
            expected = f"a name or a class of {base.__name__}"
            raise UserError(f"expected {expected}, got {kind_of(given)}: derive yours from it")
    elif names_class(given) and not is_trusted():
        raise UserError(f"{given}: expected a name or a class, got the path of a class: import it, and give the class")


def kind_of(given: object) -> str:
    """Returns the words of an error for an object of the wrong type."""
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
