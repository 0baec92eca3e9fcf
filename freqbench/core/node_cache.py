"""The node's cache: a marked folder of its own, where nothing is removed but what has a name that freqbench gives.

volumes/DIGEST.safetensors, networks/DIGEST.json, lpips/alexnet-HASH.safetensors, and files/DIGEST/NAME with
files/DIGEST.json, which lists these names.
"""

import json
import math
import os
import re
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

import platformdirs
import psutil

from freqbench.core.errors import UserError

MARKER = "freqbench-cache.txt"
LIMIT = "FREQBENCH_CACHE_GB"
TEMPORARY = ".freqbench-"  # how every file begins that is not finished
STALE_SECONDS = 3600.0  # another machine's unfinished file that is so old has lost its writer

_DIGEST = "[0-9a-f]" * 16
_UNFINISHED = f"{TEMPORARY}*.tmp"
_MADE: Mapping[str, tuple[str, ...]] = {
    "volumes": (f"{_DIGEST}.safetensors", _UNFINISHED),
    "networks": (f"{_DIGEST}.json", _UNFINISHED),
    "lpips": (f"alexnet-{'[0-9a-f]' * 8}.safetensors", _UNFINISHED),
    "files": (*(f"{_DIGEST}.{kind}" for kind in ("json", "new", "lock")), f"{_DIGEST}/{_UNFINISHED}"),
}


def folder() -> Path:
    """Where the cache is: `FREQBENCH_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("FREQBENCH_CACHE") or platformdirs.user_cache_dir("freqbench"))


def limit() -> int:
    """Bytes that all volumes may take together: FREQBENCH_CACHE_GB (10^9 bytes, 20 unless set); 0: none is kept.

    Raises UserError where the variable is no number from 0.
    """
    text = os.environ.get(LIMIT) or "20"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{LIMIT}: expected a number of gigabytes from 0 (off), got {text!r}: mend or unset it")
    return int(value * 1e9)


def part(name: str) -> Path:
    """A part of the cache, of those above; its folder is marked where that is not done yet.

    Raises UserError where the folder has no mark, but files that freqbench did not make.
    """
    root = folder()
    marker = root / MARKER
    if not marker.exists() and (other := next(strangers(), None)) and not marker.exists():  # others may begin it now
        raise UserError(
            f"{root}: expected an empty folder or a cache of freqbench, got one with other files ({other}): set "
            "FREQBENCH_CACHE to a folder of its own; nothing was changed"
        )
    if not marker.exists():
        with suppress(OSError):  # where it is not to be written, whoever keeps something says so
            root.mkdir(parents=True, exist_ok=True)
            marker.write_text(
                "A cache of freqbench: `freqbench cache clear` empties it and leaves other files alone.\n"
            )
    return root / name


def temporary(folder: Path) -> tuple[int, str]:
    """Open a new file in a folder, to be renamed when it is whole; returns its handle and path.

    Its name tells machine and process, so that what killed writers left in the folder is known and removed first.
    """
    ours = f"{TEMPORARY}{zlib.crc32(socket.gethostname().encode()):08x}-"
    for left in folder.glob(_UNFINISHED):
        writer = re.match(rf"{re.escape(ours)}(\d+)-", left.name)
        with suppress(FileNotFoundError):  # another process may sweep, or finish its own
            old = time.time() - left.stat().st_mtime > STALE_SECONDS
            if not psutil.pid_exists(int(writer[1])) if writer else old:
                left.unlink()
    return tempfile.mkstemp(dir=folder, prefix=f"{ours}{os.getpid()}-", suffix=".tmp")


def made(name: str) -> Iterator[Path]:
    """The files of a part that freqbench made, by their names; manifests come after what they list."""
    root = folder() / name
    found = chain.from_iterable(root.glob(pattern) for pattern in _MADE[name])
    yield from _copies(root) if name == "files" else ()
    for path in filter(Path.is_file, found):
        if not (name == "files" and path.suffix == ".json") or listed(path):
            yield path


def _copies(root: Path) -> Iterator[Path]:
    """The files that manifests list, unless names or links lead out of `root`."""
    for manifest in root.glob(f"{_DIGEST}.json"):
        for path in map(manifest.with_suffix("").joinpath, listed(manifest)):
            if path.is_file() and path.parent.resolve().is_relative_to(root.resolve()):
                yield path


def strangers() -> Iterator[Path]:
    """All other files in the cache's folder."""
    root = folder()
    if root.is_file():
        yield root
    own = {root / MARKER, *(root / name for name in _MADE), *(path for name in _MADE for path in made(name))}
    yield from (path for path in root.rglob("*") if path not in own and (path.is_symlink() or not path.is_dir()))


def size(name: str) -> int:
    """Bytes of what was made in a part."""
    total = 0
    for path in made(name):
        with suppress(FileNotFoundError):  # another process may clear at the same time
            total += path.stat().st_size
    return total


def clear(name: str) -> int:
    """Remove what was made in a part, and folders that are empty then; how many bytes that freed."""
    root, freed = part(name), 0
    for path in list(made(name)):
        with suppress(FileNotFoundError):  # likewise
            num_bytes = path.stat().st_size
            path.unlink()
            freed += num_bytes
        with suppress(OSError):
            for above in path.relative_to(root).parents[:-1]:
                (root / above).rmdir()
    return freed


def listed(manifest: Path) -> dict[str, str]:
    """The SHA-256 of each file that a manifest lists, by its name; none where there is no manifest."""
    try:
        found = json.loads(manifest.read_bytes()) if manifest.is_file() else {}  # a pipe has no end
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(found, dict) and all(isinstance(value, str) and len(value) == 64 for value in found.values())
    return found if is_ours else {}
