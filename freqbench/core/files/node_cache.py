"""The node's cache: its own marked folder, in which only files with names that freqbench gives are ever removed:
volumes/DIGEST.safetensors, networks/DIGEST.json, lpips/alexnet-HASH.safetensors, files/DIGEST/NAME, inductor/."""

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
TEMPORARY = ".freqbench-"  # prefix of every unfinished file
STALE_SECONDS = 3600.0  # an older unfinished file of another machine has lost its writer
_DIGEST = "[0-9a-f]" * 16
_UNFINISHED = f"{TEMPORARY}*.tmp*"  # torch hub appends another suffix while it fetches
_FETCHED = (*(f"{_DIGEST}.{kind}" for kind in ("json", "new", "lock")), f"{_DIGEST}/{_UNFINISHED}")
_MADE: Mapping[str, tuple[str, ...]] = {
    "volumes": (f"{_DIGEST}.safetensors", _UNFINISHED),
    "networks": (f"{_DIGEST}.json", _UNFINISHED),
    "lpips": (f"alexnet-{'[0-9a-f]' * 8}.safetensors", _UNFINISHED),
    "inductor": ("**/*",),  # PyTorch's compiler names its own
    "files": _FETCHED,
}


def folder() -> Path:
    """Returns the cache's folder: `FREQBENCH_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("FREQBENCH_CACHE") or platformdirs.user_cache_dir("freqbench"))


def limit() -> int:
    """Returns the bytes for all volumes: FREQBENCH_CACHE_GB (10^9 bytes, 20 unless set), a number from 0 (none)."""
    text = os.environ.get(LIMIT) or "20"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{LIMIT}: expected a number of gigabytes from 0 (off), got {text!r}: fix or unset it")
    return int(value * 1e9)


def part(name: str) -> Path:
    """Returns the folder of a part of the cache, by its `name` (volumes, networks, ...), and marks the cache's folder;
    refuses one without a mark, but with files of others."""
    root = folder()
    marker = root / MARKER
    # Asked again, as another process may have marked it meanwhile.
    if not marker.exists() and (other := next(strangers(), None)) and not marker.exists():
        got = f"got one with other files ({other}): set FREQBENCH_CACHE to a folder of its own; nothing was changed"
        raise UserError(f"{root}: expected an empty folder or a cache of freqbench, {got}")
    if not marker.exists():
        with suppress(OSError):  # if it is read-only, code that writes to the cache reports it
            root.mkdir(parents=True, exist_ok=True)
            marker.write_text("A cache of freqbench: `freqbench doctor --cache clear` empties it, not other files.\n")
    return root / name


def temporary(folder: Path) -> tuple[int, str]:
    """Opens a new file in `folder`, to be renamed when complete; returns handle and path. Files of killed writers go
    first."""
    ours = f"{TEMPORARY}{zlib.crc32(socket.gethostname().encode()):08x}-"
    for left in folder.glob(_UNFINISHED):
        writer = re.match(rf"{re.escape(ours)}(\d+)-", left.name)
        with suppress(FileNotFoundError):  # another process may sweep, or finish its own
            old = time.time() - left.stat().st_mtime > STALE_SECONDS
            if not psutil.pid_exists(int(writer[1])) if writer else old:
                left.unlink()
    return tempfile.mkstemp(dir=folder, prefix=f"{ours}{os.getpid()}-", suffix=".tmp")


def made_files(name: str) -> Iterator[Path]:
    """Yields the files of the part `name` that freqbench made, by their names; manifests follow the files they list."""
    root = folder() / name
    paths = chain.from_iterable(root.glob(pattern) for pattern in _MADE[name])
    yield from _copies(root) if name == "files" else ()
    for path in filter(Path.is_file, paths):
        if not (name == "files" and path.suffix == ".json") or listed_hashes(path):
            yield path


def _copies(root: Path) -> Iterator[Path]:
    """Yields the files that manifests list, unless names or links lead out of `root`."""
    for manifest in root.glob(f"{_DIGEST}.json"):
        for path in map(manifest.with_suffix("").joinpath, listed_hashes(manifest)):
            if path.is_file() and path.parent.resolve().is_relative_to(root.resolve()):
                yield path


def strangers() -> Iterator[Path]:
    """Yields all other files in the cache's folder."""
    if (root := folder()).is_file():
        yield root
    ours = {root / MARKER}
    for name in _MADE:
        ours |= {root / name, *made_files(name)}
    yield from (path for path in root.rglob("*") if path not in ours and (path.is_symlink() or not path.is_dir()))


def entries(name: str) -> list[tuple[float, int, Path]]:
    """Returns when each finished file of the part `name` was last used, its bytes and path, the least recently used
    first."""
    found = []
    for path in (path for path in made_files(name) if not path.name.startswith(TEMPORARY)):
        with suppress(FileNotFoundError):  # another process may clear at the same time
            found.append(((facts := path.stat()).st_mtime, facts.st_size, path))
    return sorted(found)


def size(name: str) -> int:
    """Returns the bytes of `entries`."""
    return sum(num_bytes for _, num_bytes, _ in entries(name))


def shrink(name: str) -> None:
    """Removes the least recently used files of the part `name` while all together exceed the limit."""
    over = size(name) - limit()
    for _, num_bytes, path in entries(name):
        if over > 0:
            path.unlink(missing_ok=True)
            over -= num_bytes


def clear(name: str) -> int:
    """Removes the files that freqbench made in the part `name`, and then empty folders; returns the freed bytes."""
    root = part(name)
    freed = 0
    for path in list(made_files(name)):
        with suppress(FileNotFoundError):  # likewise
            num_bytes = path.stat().st_size
            path.unlink()
            freed += num_bytes
        with suppress(OSError):
            for above in path.relative_to(root).parents[:-1]:
                (root / above).rmdir()
    return freed


def listed_hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file that the manifest of a folder of `files` lists; empty without a manifest."""
    manifest = folder.with_suffix(".json")
    try:
        hashes = json.loads(manifest.read_bytes()) if manifest.is_file() else {}  # a pipe has no end
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(hashes, dict) and all(isinstance(value, str) and len(value) == 64 for value in hashes.values())
    return hashes if is_ours else {}
