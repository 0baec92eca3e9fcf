"""Copies remote objects to the node's cache: once per node and version, complete, with their SHA-256, each in a folder
by a digest of URI and versions, beside a lock and, once complete, a JSON file of its hash."""

import fcntl
import hashlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import fsspec

from freqbench.core import limits
from freqbench.core.errors import NoFileError, StorageUnavailable, UserError
from freqbench.core.files import node_cache
from freqbench.core.files.filesystems import explain_errors, mark_of, version_of

CONNECT_SECONDS = 5
OFFLINE = "FREQBENCH_OFFLINE"
TRIES = 3  # tries for an object that changes while it is read, or arrives truncated
FRESH_S = 60.0  # seconds for which a remote file is assumed unchanged; a copy of that version stays valid for longer
_looked_up: dict[str, tuple[float, Mapping[str, Any]]] = {}
YOUNG_NS = 2_000_000_000  # resolution of the coarsest file system's clock
Stamp = tuple[int | str, ...]
Found = Mapping[str, Mapping[str, Any]]  # facts of remote files by their names below the fetched URI


def folder_of(uri: str, there: Found) -> Path:
    """Returns the folder of the node's cache for the files that are `there` below a URI, in these versions."""
    versions = {name: version_of(info) for name, info in there.items()}
    key = hashlib.sha256(json.dumps([uri, versions], sort_keys=True).encode()).hexdigest()
    return node_cache.part("files") / key[:16]


def remote_facts(uri: str, fs: fsspec.AbstractFileSystem, inner: str, again: bool = False) -> Found:
    """Returns the facts of a remote file by name, FRESH_S seconds old at most; raises NoFileError.

    Args:
        uri: the file, as messages name it.
        fs: its file system.
        inner: its path there, without scheme and options.
        again: True: asks anew, as the known facts were wrong.
    """
    looked_up, info = _looked_up.get(uri, (-math.inf, {}))
    if again or time.monotonic() - looked_up > FRESH_S:
        info = {}
        with suppress(FileNotFoundError), explain_errors(uri, fs):
            info = fs.info(inner)
        if info.get("type") != "file":
            raise no_file(uri)
        if not mark_of(info):  # of a web server that names neither version nor date
            info = {**info, "sha256": _remote_hash(uri, fs, info)}
        _looked_up[uri] = time.monotonic(), info
    return {require_below(uri, PurePosixPath(inner).name): info}


def no_file(uri: str) -> NoFileError:
    """Returns the error for a missing file, or for a folder of this machine in its place."""
    if Path(uri).is_dir():
        return NoFileError(f"{uri}: expected a file, found none, but a folder: name the file in it")
    return NoFileError(f"{uri}: expected a file, found none: check the path")


def copy_files(uri: str, fs: fsspec.AbstractFileSystem, find: Callable[[bool], Found]) -> Path:
    """Returns a folder with whole copies of the remote files that `find` names; fetches those missing or damaged.

    Args:
        uri: the file or folder that is fetched, whose versions name the cache's folder.
        fs: its file system.
        find: looks up each file's facts below `uri`; with True anew, as the old ones were wrong.

    Raises UserError if a file is larger than `limits.FILE`; StorageRefused or StorageUnavailable if storage fails.
    """
    for number in range(TRIES):
        there = find(number > 0)
        folder = folder_of(uri, there)
        with suppress(FileNotFoundError):  # another process clears the cache, or the object is gone meanwhile
            if all(_is_whole(folder, name, info) for name, info in there.items()):
                return folder
            with _lock(folder):  # another process may have been at it
                lacking = {name: info for name, info in there.items() if not _is_whole(folder, name, info)}
                if all(_fetch(uri, fs, info, folder, name) for name, info in lacking.items()):
                    return folder
    raise StorageUnavailable(f"{uri}: expected a whole file, got it cut or changed, {TRIES} times: try again later")


def fetch_pinned(uri: str, files: Mapping[str, str | None], get: Callable[[str, Path], str]) -> Path:
    """Returns a folder of the node's cache with files of fixed content; asks for those that are missing.

    Args:
        uri: names the files together.
        files: SHA-256 (hex) of each file, by its name; None: unknown, so that the first content stays.
        get: writes the file of a name to a path, and returns its source.

    Raises UserError if a source has another content.
    """
    folder = folder_of(uri, {name: {"etag": sha256} for name, sha256 in files.items()})

    def lacking() -> list[str]:
        return [name for name in files if not _is_whole(folder, name, {})]

    def write(name: str, temporary: Path) -> bool:
        source = get(name, temporary)
        if (wanted := files[name]) and (content := digest(temporary)) != wanted:
            advice = f"it is damaged or of another version: fetch it again for {uri}"
            raise UserError(f"{source}: expected sha256 {wanted[:12]}..., got {content[:12]}...: {advice}")
        return True

    if lacking():
        with _lock(folder):
            for name in lacking():  # another process may have been at it
                _put(folder, name, partial(write, name))
    return folder


def fetch_web(address: str, target: Path, sha256: str | None = None) -> None:
    """Writes the file at an `address` of the web to the path `target`, checked by `sha256` or its first digits; raises
    OSError or RuntimeError."""
    import torch  # takes seconds, and most commands fetch nothing

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)  # torch hub's download has none, and would hang if packets are dropped
    try:
        torch.hub.download_url_to_file(address, str(target), sha256, progress=sys.stderr.isatty())
    finally:
        socket.setdefaulttimeout(before)


def is_offline() -> bool:
    """True if FREQBENCH_OFFLINE forbids fetching what the package knows by its address."""
    return os.environ.get(OFFLINE, "") not in ("", "0")


def stamp(path: Path) -> Stamp:
    """Returns a value that no other content of a path has had: its place, size, times, and a young file's SHA-256."""
    facts = path.stat()
    state = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
    return state if time.time_ns() - facts.st_ctime_ns > YOUNG_NS else (*state, _hash(path))


def digest(path: Path) -> str:
    """Returns the SHA-256 (hex) of a file's content, cached in this process while its stamp stays."""
    *_, last = state = stamp(path)
    return last if isinstance(last, str) else _digest(path, state)


def require_below(uri: str, name: str) -> str:
    """Returns a file's name; raises UserError if it leads out of the folder that files of `uri` are copied into."""
    if not name or "\\" in name or any(part in ("/", "..") for part in PurePosixPath(name).parts):
        raise UserError(f"{uri}: expected names of files below it, got {name!r}: rename the object")
    return name


def settle(temporary: Path, target: Path) -> None:
    """Renames a finished file, `temporary`, to `target`, readable by all, once its content is on the disk."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.chmod(0o644)
    temporary.replace(target)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=65536)
def _digest(path: Path, state: Stamp) -> str:
    return _hash(path)


def _is_whole(folder: Path, name: str, info: Mapping[str, Any]) -> bool:
    recorded = node_cache.listed_hashes(folder).get(name)
    path = folder / name
    if recorded is None or not path.is_file() or info.get("size") not in (None, path.stat().st_size):
        return False
    return digest(path) == recorded


def _remote_hash(uri: str, fs: fsspec.AbstractFileSystem, info: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of a remote file, of which a copy is made for this alone."""
    files = node_cache.part("files")
    files.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=files) as folder, explain_errors(uri, fs):
        copy = Path(folder) / "content"
        fs.get_file(info["name"], str(copy), callback=_Bounded(uri, info.get("size")))
        return _hash(copy)


def _fetch(uri: str, fs: fsspec.AbstractFileSystem, info: Mapping[str, Any], folder: Path, name: str) -> bool:
    """Fetches one file; returns True if the copy is complete and of the version that was looked up."""

    def write(temporary: Path) -> bool:
        with explain_errors(uri, fs):
            fs.get_file(info["name"], str(temporary), callback=_Bounded(uri, info.get("size")))
            now = fs.info(info["name"])
        if "sha256" in info:
            return digest(temporary) == info["sha256"]
        return version_of(now) == version_of(info) and info.get("size") in (None, temporary.stat().st_size)

    return _put(folder, name, write)


def _put(folder: Path, name: str, write: Callable[[Path], bool]) -> bool:
    """Puts a file into a folder, and its hash on record, if `write` returns True for a temporary file."""
    target = folder / name
    record = folder.with_suffix(".json")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = node_cache.temporary(folder)
    os.close(handle)
    try:
        if not write(Path(temporary)):
            return False
        settle(Path(temporary), target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    note = record.with_suffix(".new")
    note.write_text(json.dumps({**node_cache.listed_hashes(folder), name: digest(target)}))
    settle(note, record)
    return True


class _Bounded(fsspec.Callback):  # type: ignore[misc]
    """Ends a transfer that is announced, or grows, larger than a file may be."""

    def __init__(self, uri: str, announced: int | None) -> None:
        super().__init__()
        self._what = f"bytes of {uri}"
        limits.require(announced or 0, limits.FILE, self._what)

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        limits.require(self.value, limits.FILE, self._what)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Admits one process or thread of this node at a time; the lock of one that dies is free."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
