"""Notes what code of one's own reads, from the start of the process: its sources as they were imported, and the files
that it opens. Neither is known later: a source may be edited meanwhile, and a library may hide who opened a file."""

import functools
import os
import sys
import types
from contextlib import suppress
from importlib import util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

_OTHERS = (f"{Path(os.__file__).parent}/", f"{Path(__file__).parents[1]}/")  # of Python and of freqbench
_SITES = {"site-packages", "dist-packages"}
_IMPORTS = "importlib._bootstrap_external"
_IMPORTERS = (_IMPORTS, "importlib._bootstrap", "zipimport")
_KINDS = (".py", ".pyc", ".so")
MACHINE = ("/proc/", "/sys/", "/dev/")

sources: dict[str, bytes] = {}  # text of each own module's file as it was last imported, by its path
opened: dict[str, set[str]] = {}  # paths of the files that own code opened, by the path of its own file


@functools.cache
def watch() -> None:
    """Begins to note, to the end of the process."""
    sys.addaudithook(_note)


def is_of_others(path: str) -> bool:
    """True for the path of a file of Python, of freqbench or of an installed distribution; others are one's own."""
    return path.startswith(_OTHERS) or not _SITES.isdisjoint(path.split("/"))


def spec_of(top: str) -> ModuleSpec | None:
    """Returns the specification of a module by its first name, as it was imported or would be. Python's path is asked
    first: a search for `pip` by the hooks of setuptools turns one of these off."""
    held = sys.modules.get(top)
    if held or not top:
        return getattr(held, "__spec__", None)
    return PathFinder.find_spec(top) or util.find_spec(top)


@functools.cache
def is_installed(module: str) -> bool:
    """True for the name of a module of Python, freqbench or an installed distribution; others are one's own."""
    top = module.partition(".")[0]
    held = sys.modules.get(top)
    spec = spec_of(top)
    if top == "freqbench" or (spec and spec.origin in ("built-in", "frozen")):
        return True
    folders = (spec and spec.submodule_search_locations) or ()
    places = [getattr(held, "__file__", spec and spec.origin), *folders]
    return any(is_of_others(f"{place}/") for place in places if place)


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event != "open" or not isinstance(args[0], str | bytes | os.PathLike):
        return
    path = os.path.abspath(os.fsdecode(args[0]))  # noqa: PTH100 (of each file that the process opens)
    caller: types.FrameType | None = sys._getframe(1)
    if caller and caller.f_globals.get("__name__") == _IMPORTS:
        _note_source(path)
    elif (args[2] or 0) & os.O_ACCMODE != os.O_WRONLY and not path.endswith(_KINDS) and not _is_machines(path):
        _note_opened(path, caller)


def _is_machines(path: str) -> bool:
    """True for a file of the system or of installed code, which counts by its release."""
    return path.startswith(MACHINE) or is_of_others(path)


def _note_source(path: str) -> None:
    """Keeps the text of a module that is being imported, from its source or from what was compiled of it."""
    if path.endswith((".py", ".pyc")) and not is_of_others(path):
        with suppress(ValueError, OSError):  # compiled without a source
            source = util.source_from_cache(path) if path.endswith(".pyc") else path
            sources[source] = Path(source).read_bytes()
            opened.pop(source, None)  # by code of before


def _note_opened(path: str, frame: types.FrameType | None) -> None:
    """Notes a file under the own code that opens it, itself or by a library, as it is imported or freqbench calls it:
    what else a script reads reaches a number as a value. A dataset's files are left out: reading them is its task."""
    while frame and is_installed(name := str(frame.f_globals.get("__name__"))):
        if name.startswith("freqbench.") or name in _IMPORTERS:
            return
        frame = frame.f_back
    if frame is None:
        return
    caller: types.FrameType | None = frame
    while caller and not (name := str(caller.f_globals.get("__name__"))).startswith(("freqbench.", *_IMPORTERS)):
        caller = caller.f_back
    if caller and not name.startswith("freqbench.data."):
        opened.setdefault(frame.f_code.co_filename, set()).add(path)
