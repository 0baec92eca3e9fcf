"""Finds the files that a program of the user's may read: those of its folder, or those that its text names."""

import json
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from freqbench.core import reading
from freqbench.core.files import downloads
from freqbench.core.syntax import LONGEST_NAME, syntax_of

Find = Callable[[str, Path], Iterable[Path]]  # files by a name in the text of a script, and by the script's folder
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
_NAMES = re.compile(r"[\w./-]*\w")
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


def is_read(path: Path) -> bool:
    """True for a `path` of a file that a program may read; no tool's, whose hidden folder is beside the program."""
    here = Path.cwd()
    names = path.relative_to(here).parts if path.is_relative_to(here) else (path.name,)
    return all(map(counts, names))


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


def closure(starts: Iterable[Path], find: Find) -> dict[Path, str]:
    """Returns digests of files by their paths: of `starts`, of the files that `find` knows for the names in the text of
    these, and of what the code among them names. Of Python a digest holds the syntax without comments, docstrings and
    annotations, as the module was imported if it was; of any other file the bytes."""
    content = dict[Path, str]()
    first = {*starts}
    asked = defaultdict[Path, set[str]](set)
    waiting = [*first]
    while waiting:
        path = waiting.pop()
        if path in content:
            continue
        content[path], names = _does(path)
        if path in first or is_script(path):
            folder = path.parent
            new = names - asked[folder]
            asked[folder] |= new
            for name in new:
                waiting.extend(find(name, folder))
    return content


def named_files(scripts: Iterable[Path], roots: Sequence[Path], texts: Iterable[str] = ()) -> dict[str, Path]:
    """Returns the files that the text of `scripts`, and `texts` such as that of `python -c`, name, as modules below
    `roots` or by path, and what the code among these names, by path below a root where they have one."""

    def find(name: str, folder: Path) -> Iterable[Path]:
        places = (folder, *roots)
        file = file_named(name, places)
        found = [file] if file else _module_files(name, places)
        return [path for path in found if not is_installed(path)]

    starts = [script.absolute() for script in scripts]
    for text in texts:
        for name in names_of(text):
            starts += find(name, Path.cwd())
    files = dict[str, Path]()
    for path in closure(starts, find):
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        files[path.relative_to(root).as_posix()] = path
    return files


def names_of(text: str) -> set[str]:
    """Returns what may be names of modules or files in a text."""
    return {*_NAMES.findall(text)}


def file_named(text: str, folders: Iterable[Path]) -> Path | None:
    """Returns the file that a text names, as a whole path, or as one seen from one of the `folders` or the current one;
    None: it names none, or one that no output depends on."""
    if len(text) > LONGEST_NAME or "\n" in text or ("." not in text and "/" not in text):
        return None
    names = sorted({text, text.lstrip("/")})  # of an f-string, what follows a folder
    with suppress(OSError, ValueError):
        for folder in (*folders, Path.cwd()):
            for path in map(folder.joinpath, names):
                if path.is_file() and counts(path.name) and not str(path).startswith(reading.MACHINE):
                    return path.absolute()
    return None


def _module_files(name: str, roots: Iterable[Path]) -> list[Path]:
    """Returns the files of a module, or of its whole package, below the first of the roots that has it."""
    path, top = name.replace(".", "/"), name.partition(".")[0]
    for root in roots:
        if top and (root / top / "__init__.py").is_file():
            return [*(program_files(root / top) or {}).values()]
        for file in (root / f"{path}.py", root / f"{top}.py"):
            if top and file.is_file():
                return [file]
    return []


def _does(path: Path) -> tuple[str, frozenset[str]]:
    """Returns the digest of what a file holds, and the names in its text."""
    if path.suffix == ".py" and (syntax := syntax_of(path)):
        return syntax.digest, syntax.names
    names = _NAMES.findall(_text_of(path)) if path.suffix in _TEXTS else ()
    return downloads.digest(path), frozenset(names)


def is_script(path: Path) -> bool:
    """True for the `path` of a file whose text is its program."""
    return path.suffix in _CODE or shebang(path) != ""


def shebang(path: Path) -> str:
    """Returns the program that runs the script at `path`, by its first line; empty without one."""
    with suppress(OSError), path.open("rb") as stream:
        if stream.read(2) == b"#!":
            return (stream.readline(4096).decode(errors="replace").split() or [""])[-1]
    return ""


def is_installed(path: Path) -> bool:
    """True for a program in a folder of installed ones: on PATH, or beside a Python."""
    folders = (Path(part).resolve() for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part)
    is_beside = (path.parent / "python3").exists() or reading.is_of_others(str(path))
    return is_beside or path.parent.resolve() in folders


def imports_of(path: Path) -> list[str]:
    """Returns the packages that the Python script at `path` imports, by their first names."""
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
