"""Files, local or remote, through fsspec: whole-object writes, fetching to the node's cache, content hashes."""

import inspect
import os
import re
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from freqbench.core import downloads, filesystems, names, node_cache
from freqbench.core.errors import NoFileError, StorageUnavailable, UserError
from freqbench.core.filesystems import opened, told

TRANSFERS = 8  # at once, of many small files

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def is_local(path: str) -> bool:
    """Whether a path or URI names a file of this machine."""
    return filesystems.is_local(opened(path)[0])


def local_path(path: str) -> str:
    """A file of this machine by its plain path, also where it is given as `file:///...`."""
    return opened(path)[1] if "://" in path else path


def filled_in(text: str, owner: str) -> str:
    """A path with `~` and environment variables such as `${FREQBENCH_DATA}` filled in.

    Raises UserError, which begins with `owner`, where there is no such variable or it sounds secret.
    """

    def value(found: re.Match[str]) -> str:
        variable = found[1] or found[2]
        names.require_open(variable, f"{owner}: {text}")
        if variable not in os.environ:
            raise UserError(f"{owner}: {text}: expected the environment variable {variable}, found none: set it")
        return os.environ[variable]

    filled = _VARIABLE.sub(value, text)
    return str(names.at_home(filled)) if filled.startswith("~") else filled


def join(root: str, *parts: str) -> str:
    """Join below a folder or URI."""
    return "/".join([root.rstrip("/"), *parts])


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    fs, inner = opened(path)
    if filesystems.is_local(fs):
        return Path(inner).exists()  # raises, unlike fsspec's, where a folder on the way may not be searched
    with told(path, fs):
        return bool(fs.exists(inner))


def read_bytes(path: str) -> bytes:
    """The whole content of one object.

    Raises UserError for a pipe or device, which has no end, StorageRefused or StorageUnavailable as `write_atomic`.
    """
    return read_range(path, None, None)


def read_range(path: str, start: int | None, end: int | None) -> bytes:
    """The bytes of one object from `start` on, before `end`; as `read_bytes`."""
    fs, inner = opened(path)
    if filesystems.is_local(fs) and not stat.S_ISREG(kind := Path(inner).stat().st_mode) and not stat.S_ISDIR(kind):
        raise UserError(f"{path}: expected a file, got a pipe, socket or device: move it away")
    with told(path, fs):
        content: bytes = fs.cat_file(inner, start=start, end=end)
    return content


def size(path: str) -> int:
    """The bytes of one object."""
    fs, inner = opened(path)
    with told(path, fs):
        return int(fs.size(inner))


def write_atomic(path: str, data: bytes) -> None:
    """Write one object so that readers see all of it or nothing, whatever dies.

    Locally: a temporary file in the same folder, fsync, `os.replace`, fsync of the folder. Remotely: one put of the
    finished bytes, as an open stream would publish a torn object on error; what s3fs sends in parts, from 100 MB on, is
    there once the last part is. Raises StorageRefused or StorageUnavailable where object storage does not take it.
    """
    fs, inner = opened(path)
    if not filesystems.is_local(fs):
        with told(path, fs, writing=True):
            fs.pipe_file(inner, data)
        return
    folder = Path(inner).parent
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = node_cache.temporary(folder)
    try:
        with told(path, fs):
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            downloads.settle(Path(temporary), Path(inner))
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)


def require_own(path: str, mark: bytes) -> None:
    """Refuse to write over a file that freqbench did not make: one in which the mark of its kind does not stand."""
    if exists(path) and mark not in read_bytes(path):
        raise UserError(
            f"{path}: expected no file or one that freqbench wrote, got another: move it away, or write elsewhere; it "
            "was left as it is"
        )


def create(path: str, data: bytes) -> bool:
    """Write one object only if there is none: O_EXCL locally, a create-only put elsewhere; whether this call made it.

    Where a file system knows no such put, one of two that write at the same moment may find itself replaced. After a
    lost answer this call may have made it, and says no: what is there tells whose it is.
    """
    fs, inner = opened(path)
    try:
        if filesystems.is_local(fs):
            Path(inner).parent.mkdir(parents=True, exist_ok=True)
            with told(path, fs), Path(inner).open("xb") as stream:
                stream.write(data)
            return True
        with told(path, fs, writing=True):
            if "mode" in inspect.signature(getattr(fs, "_pipe_file", fs.pipe_file)).parameters:
                fs.pipe_file(inner, data, mode="create")
                return True
            if fs.exists(inner):
                return False
            fs.pipe_file(inner, data)
            return bool(fs.cat_file(inner) == data)
    except FileExistsError:
        return False
    except StorageUnavailable:
        if not exists(path):
            raise
        return False


def list_files(folder: str, suffix: str) -> list[str]:
    """Names of the files directly in a folder that end in `suffix`, sorted; none where there is no folder."""
    found = (str(path).rsplit("/", 1)[-1] for path in _listed(folder, detail=False))
    return sorted(name for name in found if name.endswith(suffix) and not name.startswith("."))


def list_sizes(folder: str, suffix: str) -> dict[str, int]:
    """Bytes of each file that `list_files` names."""
    sizes = {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"]) for entry in _listed(folder, detail=True)}
    return {name: size for name, size in sizes.items() if name.endswith(suffix) and not name.startswith(".")}


def _listed(folder: str, detail: bool) -> list[Any]:
    fs, inner = opened(folder)
    try:
        with told(folder, fs):
            found: list[Any] = fs.ls(inner, detail=detail)
            return found
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_below(folder: str, name: str) -> list[str]:
    """Paths below a folder, however deep, of the files that are called so, sorted; none where there is no folder."""
    fs, inner = opened(folder)
    with told(folder, fs):
        found = fs.find(inner)
    return sorted(path.removeprefix(inner).strip("/") for path in found if path.rpartition("/")[2] == name)


def remove(path: str) -> None:
    """Remove one object; one that is gone already is no error."""
    fs, inner = opened(path)
    with suppress(FileNotFoundError), told(path, fs):
        fs.rm_file(inner)


def fetch(path: str, sha256: str | None = None) -> Path:
    """A local file with the content of a path or URI: itself where local, else a copy in the node's cache.

    The copy is made once a node and version of the object, however many processes ask. It is made again where its size
    is not the object's or, if a hash (hex) is wanted, where it is no longer what was fetched.

    Raises UserError where nothing is there, or another content than is wanted; else as `read_bytes`.
    """
    fs, inner = opened(path)
    if filesystems.is_local(fs):
        local = Path(inner)
        if not local.is_file():  # raises, unlike fsspec's, where a folder on the way may not be searched
            raise downloads.no_file(path)
        with local.open("rb"):  # else safetensors calls a file that may not be read one that is not there
            pass
    else:
        find = partial(downloads.found, path, fs, inner)
        local = downloads.copied(path, fs, find, verify=sha256 is not None) / PurePosixPath(inner).name
    if sha256 is not None and (content := downloads.digest(local)) != sha256:
        raise UserError(
            f"{path}: expected sha256 {sha256[:12]}..., got {content[:12]}...: the file was changed since it was "
            "planned with, or is damaged: put that file back or plan anew"
        )
    return local


def prefetch(paths: Iterable[str]) -> None:
    """Fetch remote files several at once, for whom then fetches them one by one; what is not there it will find."""

    def copy(path: str) -> None:
        with suppress(NoFileError):
            fetch(path)

    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(copy, [path for path in paths if not is_local(path)]))


def fetch_folder(path: str, patterns: Sequence[str]) -> Path:
    """A local folder with files of a folder or URI: itself where local, else verified copies in the node's cache.

    `patterns` are of the names below it that are wanted; `*` crosses slashes. Raises UserError where the name of an
    object leads out of the folder; else as `read_bytes`.
    """
    fs, inner = opened(path)
    if filesystems.is_local(fs):
        return Path(inner)

    def find(_: bool) -> downloads.Found:
        with told(path, fs):
            objects = fs.find(inner, detail=True)
        below = {name.removeprefix(inner).strip("/"): info for name, info in objects.items()}
        wanted = [name for name in below if any(fnmatch(name, pattern) for pattern in patterns)]
        return {downloads.below(path, name): below[name] for name in wanted}

    return downloads.copied(path, fs, find, verify=True)


def sha256(path: str) -> str:
    """SHA-256 of a file's content as hex, remembered in this process for as long as size and time stamp stay.

    Of a remote object it is remembered on the node's disk for as long as its version stays, and nothing is read again.
    """
    fs, inner = opened(path)
    if filesystems.is_local(fs):
        return downloads.digest(fetch(path))
    name = PurePosixPath(inner).name
    known = downloads.hashes(downloads.folder_of(path, downloads.found(path, fs, inner)))
    return known[name] if name in known else downloads.hashes(fetch(path).parent)[name]
