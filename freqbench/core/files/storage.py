"""Reads and writes files, local or remote, through fsspec: whole-object writes, cached copies, content hashes."""

import inspect
import os
import pkgutil
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from functools import lru_cache, partial, wraps
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec

from freqbench.core import names
from freqbench.core.errors import NoFileError, StorageUnavailable, UserError
from freqbench.core.files import downloads, filesystems, node_cache
from freqbench.core.files.filesystems import explain_errors

T = TypeVar("T")
TRANSFERS = 8  # parallel transfers of many small files
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|CONNECTION_STRING", re.IGNORECASE)


def filesystem_of(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of a path or URI, and the path within it; fetches a file of OWN_PROTOCOLS before."""
    fetch = names.OWN_PROTOCOLS.get(str(path).partition("://")[0])
    return filesystems.filesystem_of(str(pkgutil.resolve_name(fetch)(path)) if fetch else path)


def is_local(path: str) -> bool:
    """True if a path or URI names a file of this machine."""
    return filesystems.is_local(filesystem_of(path)[0])


def local_path(path: str) -> str:
    """Returns the plain path of a file of this machine, also if it is given as `file:///...`."""
    return filesystem_of(path)[1] if "://" in path else path


def filled_in(text: str, owner: str) -> str:
    """Returns a path, `text`, with `~` and `${VARIABLES}` filled in; refuses missing and secret ones in a line after
    `owner`."""

    def value(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        where = f"{owner}: {text}: expected"
        if _SECRET.search(variable):  # errors and rows repeat it
            got = f"{variable}, which sounds secret"
            raise UserError(f"{where} a variable that may appear in messages, got {got}: rename it")
        if variable not in os.environ:
            raise UserError(f"{where} the environment variable {variable}, found none: set it")
        return os.environ[variable]

    filled = _VARIABLE.sub(value, text)
    return str(names.home_of(filled)) if filled.startswith("~") else filled


def join(root: str, *parts: str) -> str:
    """Joins parts below a folder or URI, `root`."""
    return "/".join([root.rstrip("/"), *parts])


def exists(path: str) -> bool:
    """True if a file or folder exists."""
    fs, inner = filesystem_of(path)
    if filesystems.is_local(fs):
        return Path(inner).exists()  # raises, unlike fsspec's, where a folder on the way may not be searched
    with explain_errors(path, fs):
        return bool(fs.exists(inner))


def read_bytes(path: str) -> bytes:
    """Returns the whole content of one object, at `path` (or URI); raises UserError for a pipe or device, else as
    `write_atomic`."""
    return read_range(path, None, None)


def read_range(path: str, start: int | None, end: int | None) -> bytes:
    """Returns the bytes of the object at `path` from `start` (None: the first) up to `end` (None: the last); raises as
    `read_bytes`."""
    fs, inner = filesystem_of(path)
    if filesystems.is_local(fs) and not stat.S_ISREG(kind := Path(inner).stat().st_mode) and not stat.S_ISDIR(kind):
        raise UserError(f"{path}: expected a file, got a pipe, socket or device: move it away")
    with explain_errors(path, fs):
        content: bytes = fs.cat_file(inner, start=start, end=end)
    return content


def size(path: str) -> int:
    """Returns the bytes of one object."""
    fs, inner = filesystem_of(path)
    with explain_errors(path, fs):
        return int(fs.size(inner))


def write_atomic(path: str, data: bytes) -> None:
    """Writes `data` to one object, a file `path` or URI, so that readers see all of it or nothing, even after a crash.
    Locally: a temporary file in the same folder, fsync, `os.replace`, fsync of the folder. Remotely: one put of the
    finished bytes, as an open stream would publish a torn object on error; an object that s3fs sends in parts, from 100
    MB on, appears with its last part. Raises UserError for a folder, device or pipe in its place, StorageRefused or
    StorageUnavailable if object storage does not accept it."""
    fs, inner = filesystem_of(path)
    if not filesystems.is_local(fs):
        with explain_errors(path, fs, writing=True):
            fs.pipe_file(inner, data)
        return
    target = Path(inner)
    folder = Path(inner).parent
    with suppress(OSError):  # one look: between two, another process may remove the file
        if not stat.S_ISREG(target.stat().st_mode):  # the rename below would put a file in place of a device or pipe
            raise UserError(f"{path}: expected a file or nothing there, got a folder, device or pipe: write elsewhere")
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = node_cache.temporary(folder)
    try:
        with explain_errors(path, fs):
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            downloads.settle(Path(temporary), target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)


def require_own(path: str, mark: bytes) -> None:
    """Refuses to overwrite a file, at `path`, that freqbench did not make: one without the mark of its kind."""
    if exists(path) and mark not in read_bytes(path):
        advice = "move it away, or write elsewhere; it was left as it is"
        raise UserError(f"{path}: expected no file or one that freqbench wrote, got another: {advice}")


def create(path: str, data: bytes) -> bool:
    """Writes `data` to the object at `path` only if there is none, O_EXCL or a create-only put; returns True if this
    call made it. Without such a put, or after a lost answer, only the object's content tells whose it is."""
    fs, inner = filesystem_of(path)
    try:
        if filesystems.is_local(fs):
            Path(inner).parent.mkdir(parents=True, exist_ok=True)
            with explain_errors(path, fs), Path(inner).open("xb") as stream:
                stream.write(data)
            return True
        with explain_errors(path, fs, writing=True):
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
    """Lists the names of the files directly in a folder that end in `suffix`, sorted; empty without a folder."""
    names = (str(path).rsplit("/", 1)[-1] for path in _list_entries(folder, detail=False))
    return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))


def list_sizes(folder: str, suffix: str) -> dict[str, int]:
    """Returns the bytes of each file of `folder` that ends in `suffix`, by the names of `list_files`."""
    sizes = {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"]) for entry in _list_entries(folder, detail=True)}
    return {name: size for name, size in sizes.items() if name.endswith(suffix) and not name.startswith(".")}


def _list_entries(folder: str, detail: bool) -> list[Any]:
    fs, inner = filesystem_of(folder)
    try:
        with explain_errors(folder, fs):
            entries: list[Any] = fs.ls(inner, detail=detail)
            return entries
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_below(folder: str, name: str) -> list[str]:
    """Lists the files with this name at any depth below a folder, not through links, sorted; empty without it."""
    fs, inner = filesystem_of(folder)
    with explain_errors(folder, fs):
        paths = fs.find(inner)
    return sorted(path.removeprefix(inner).strip("/") for path in paths if path.rpartition("/")[2] == name)


def list_tree(folder: str, depth: int) -> list[str]:
    """Lists files at most `depth` parts below a folder, sorted, but hidden ones, pipes, sockets and devices."""
    fs, inner = filesystem_of(folder)
    if not filesystems.is_local(fs):
        with explain_errors(folder, fs):
            paths = [path.removeprefix(inner).strip("/") for path in fs.find(inner, maxdepth=depth)]
        return sorted(path for path in paths if "/." not in f"/{path}")  # no part is hidden
    return sorted(_tree(inner, depth))


def _tree(folder: str, depth: int) -> Iterator[str]:
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:  # no folder, or one that may not be read
        return
    for entry in entries:
        if entry.is_file() or not (entry.is_dir() or os.path.exists(entry.path)):  # noqa: PTH110 (one look a link)
            yield entry.name
        elif depth > 1 and entry.is_dir():
            yield from (f"{entry.name}/{path}" for path in _tree(entry.path, depth - 1))


def remove(path: str) -> None:
    """Removes one object; ignores one that does not exist."""
    fs, inner = filesystem_of(path)
    with suppress(FileNotFoundError), explain_errors(path, fs):
        fs.rm_file(inner)


def fetch(path: str, sha256: str | None = None) -> Path:
    """Returns a local file with the content of a path or URI: itself if local, else a verified copy in the node's
    cache. Raises UserError if it does not exist or has another hash than `sha256` (hex); else as `read_bytes`."""
    fs, inner = filesystem_of(path)
    if filesystems.is_local(fs):
        local = Path(inner)
        if not local.is_file():  # raises, unlike fsspec's, where a folder on the way may not be searched
            raise downloads.no_file(path)
        with local.open("rb"):  # else safetensors calls a file that may not be read one that is not there
            pass
    else:
        find = partial(downloads.remote_facts, path, fs, inner)
        local = downloads.copy_files(path, fs, find) / PurePosixPath(inner).name
    if sha256 is not None and (content := downloads.digest(local)) != sha256:
        advice = "the file was changed since it was planned with, or is damaged: put that file back or plan anew"
        raise UserError(f"{path}: expected sha256 {sha256[:12]}..., got {content[:12]}...: {advice}")
    return local


def prefetch(paths: Iterable[str]) -> None:
    """Fetches several remote files, `paths`, at once, before a caller fetches them one by one; ignores local and
    missing ones."""

    def copy(path: str) -> None:
        with suppress(NoFileError):
            fetch(path)

    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(copy, [path for path in paths if not is_local(path)]))


def fetch_together(folder: str, names: Sequence[str]) -> Path:
    """Returns a local folder with the files `names` of a folder or URI, as `fetch_folder`; raises as `fetch` without
    one."""
    fs, inner = filesystem_of(folder)
    if filesystems.is_local(fs):
        return Path(inner)

    def find(again: bool) -> downloads.Found:
        found = {name: downloads.remote_facts(join(folder, name), fs, f"{inner}/{name}", again) for name in names}
        return {downloads.require_below(folder, name): next(iter(facts.values())) for name, facts in found.items()}

    return downloads.copy_files(folder, fs, find)


def fetch_folder(path: str, patterns: Sequence[str]) -> Path:
    """Returns a local folder with files of a folder or URI, `path`: itself if local, else verified copies in the node's
    cache. `patterns` select names, `*` crosses slashes. Raises UserError if a name leads out of it; else as
    `read_bytes`."""
    fs, inner = filesystem_of(path)
    if filesystems.is_local(fs):
        return Path(inner)

    def find(_: bool) -> downloads.Found:
        with explain_errors(path, fs):
            objects = fs.find(inner, detail=True)
        wanted: dict[str, Any] = {}
        for place, info in objects.items():
            name = place.removeprefix(inner).strip("/")
            if any(fnmatch(name, pattern) for pattern in patterns):
                wanted[downloads.require_below(path, name)] = info
        return wanted

    return downloads.copy_files(path, fs, find)


def sha256(path: str) -> str:
    """Returns the SHA-256 (hex) of a file, kept while its stamp or version stays, in this process or on its disk."""
    fs, inner = filesystem_of(path)
    if filesystems.is_local(fs):
        return downloads.digest(fetch(path))
    name = PurePosixPath(inner).name
    recorded = node_cache.listed_hashes(downloads.folder_of(path, downloads.remote_facts(path, fs, inner)))
    return recorded[name] if name in recorded else node_cache.listed_hashes(fetch(path).parent)[name]


def once_each_content(read: Callable[[str], T], content_of: Callable[[str], str] = sha256) -> Callable[[str], T]:
    """Returns a reader that calls `read` once for each path and content, by `content_of` a path, and keeps its answers
    in this process; refuses a file that changes meanwhile."""

    @lru_cache(maxsize=4096)
    def read_content(path: str, content: str) -> T:
        answer = read(path)
        if content_of(path) != content:
            raise UserError(f"{path}: expected a file that stays while it is read, got another content: run again")
        return answer

    return wraps(read)(lambda path: read_content(path, content_of(path)))
