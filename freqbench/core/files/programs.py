"""Finds the files that a program of the user's may read: those of its folder, or those that its text names."""

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# a folder of more is a home or a dataset, no program's
MOST_FILES = 2000
MOST_BYTES = 4 * 10**9
DEPTH = 8  # folders below it; links may lead around in a circle
LONGEST = 2**20  # bytes of a script's text

# What tools, runs and readers leave or put beside a program: its output does not depend on it.
_LEFT = ("__pycache__", "node_modules", "wandb", "mlruns", "LICENSE", "NOTICE", "nohup.out")
_KINDS_LEFT = ("pyc", "log", "pid", "lock", "tmp", "md", "rst", "ipynb", "pdf", "png", "jpg", "gif", "svg")
_STORE = {"leases", "records", "runs", "glimpses", "run.json"}
_OTHERS = {"pyvenv.cfg", "conda-meta", "freqbench-cache.txt"}  # mark environments, and freqbench's cache
_JOB_KEYS = re.compile(r"^(datasets|models|attacks):", re.MULTILINE)
_CODE = {f".{kind}" for kind in ("py", "sh", "bash", "pl", "R", "r", "jl", "js", "m", "rb")}
_TEXTS = {*_CODE, *(f".{kind}" for kind in ("yaml", "yml", "json", "toml", "ini", "cfg", "txt")), ""}
_WORDS = re.compile(r"[\w-]+")
_NAMES = re.compile(r"[\w-][\w./-]*")
_IMPORTS = re.compile(r"^\s*(?:from|import)[ \t]+(\w[\w., \t]*)", re.MULTILINE)
_ASK = """
import importlib.metadata as m, importlib.util, json, os, sys, sysconfig
spec = importlib.util.find_spec(sys.argv[1])
place = [*(spec.submodule_search_locations or []), spec.origin or ""][0] if spec else ""
names = m.packages_distributions().get(sys.argv[1], ()) if "-packages" in place else ()
is_known = names or not os.path.exists(place) or place.startswith(sysconfig.get_path("stdlib"))
is_known = is_known and (names or "-packages" not in place)
print(json.dumps([f"{name} {m.version(name)}" for name in sorted({*names})] if is_known else place))
"""


def program_files(folder: Path, words: Iterable[str] | None = None) -> dict[str, Path] | None:
    """Returns the files of a program's folder by name; None if they are too many. Left out are hidden files, documents,
    pictures, logs, environments, freqbench's own, and, with `words`, folders that nothing names."""
    files = dict[str, Path]()
    size = 0
    named = {*_WORDS.findall(" ".join(words or ()))}
    below = [] if words is None else [path for path in _entries(folder, True) if path.is_dir()]
    there = [*islice(_walk(folder, DEPTH if words is None else 0), MOST_FILES + 1)]
    while there:
        for path in there:
            files[path.relative_to(folder).as_posix()] = path
            size += path.stat().st_size
            if below and path.suffix in _TEXTS:
                named |= {*_WORDS.findall(_text_of(path))}
        if len(files) > MOST_FILES or size > MOST_BYTES:
            return None
        new = [path for path in below if path.name in named or (path / "__init__.py").is_file()]
        below = [path for path in below if path not in new]
        there = [file for path in new for file in islice(_walk(path, DEPTH, False), MOST_FILES + 1)]
    return files


def counts(name: str) -> bool:
    """True for the name of a file or folder that a program may read, beside documents, pictures and what runs leave."""
    ends = ("~", *(f".{kind}" for kind in _KINDS_LEFT))
    return not (name in _LEFT or name.startswith((".", "freqbench-")) or name.endswith(ends))


def _entries(folder: Path, is_top: bool) -> list[Path]:
    """Returns what is in a folder but what is left there; nothing of a store or an environment below another."""
    try:
        there = sorted(folder.iterdir())
    except OSError:  # the program may not read it either
        return []
    names = {path.name for path in there}
    is_store = "leases" in names or names >= {"records", "run.json"}
    if not is_top and (is_store or not names.isdisjoint(_OTHERS)):
        return []
    return [path for path in there if counts(path.name) and not (is_store and path.name in _STORE)]


def _walk(folder: Path, depth: int, is_top: bool = True) -> Iterator[Path]:
    for path in _entries(folder, is_top):
        if path.is_dir():
            yield from _walk(path, depth - 1, False) if depth else ()
        elif path.is_file():  # but a job of freqbench, which says of a program what it is asked, not what it does
            is_job = path.suffix in (".yaml", ".yml") and len({*_JOB_KEYS.findall(_text_of(path))}) > 1
            yield from () if is_job else (path,)


def _text_of(path: Path) -> str:
    with suppress(OSError), path.open("rb") as stream:
        return stream.read(LONGEST).decode(errors="replace")
    return ""


def named_files(scripts: Iterable[Path], roots: Sequence[Path], imported_alone: bool = False) -> dict[str, Path]:
    """Returns the files below `roots` that the text of scripts names, as modules or by path, and what these name."""
    files = dict[str, Path]()
    waiting = [*scripts]
    while waiting:
        script = waiting.pop()
        for name in imports_of(script) if imported_alone else {*_NAMES.findall(_text_of(script))}:
            for root in roots:
                package = root / name if (root / name / "__init__.py").is_file() else None
                places = (root / name, root / f"{name}.py", root / f"{name.replace('.', '/')}.py")
                found = (program_files(package) or {}).values() if package else filter(Path.is_file, places)
                new = {path.relative_to(root).as_posix(): path for path in found if path.suffix[1:] not in _KINDS_LEFT}
                waiting.extend(path for key, path in new.items() if key not in files and path.suffix in _CODE)
                files = new | files
                if new:
                    break
    return files


def is_script(path: Path) -> bool:
    """True for a file whose text is its program."""
    return path.suffix in _CODE or shebang(path) != ""


def shebang(path: Path) -> str:
    """Returns the program that runs a script, by its first line; empty without one."""
    with suppress(OSError), path.open("rb") as stream:
        if stream.read(2) == b"#!":
            return (stream.readline(4096).decode(errors="replace").split() or [""])[-1]
    return ""


def is_installed(path: Path) -> bool:
    """True for a program in a folder of installed ones: on PATH, or beside a Python."""
    folders = (Path(part).resolve() for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part)
    return (path.parent / "python3").exists() or path.parent.resolve() in folders


def imports_of(path: Path) -> list[str]:
    """Returns the packages that a Python script imports, by their first names."""
    lists = (line.split(" import ")[0].split(",") for line in _IMPORTS.findall(_text_of(path)))
    return sorted({name.split()[0].partition(".")[0] for names in lists for name in names if name.strip()})


def module_place(python: str, package: str) -> Path | list[str]:
    """Returns the folder or file of a package that an interpreter imports; of an installed one its releases."""
    place = _ask(python, package, os.environ.get("PYTHONPATH"))
    return Path(place) if isinstance(place, str) else place


@cache
def _ask(python: str, package: str, python_path: str | None) -> Any:
    with TemporaryDirectory(prefix="freqbench-") as folder, suppress(OSError, ValueError, subprocess.SubprocessError):
        asked = subprocess.run([python, "-c", _ASK, package], cwd=folder, capture_output=True, timeout=60, check=True)
        return json.loads(asked.stdout)
    return []
