"""Files, local or remote, through fsspec: whole-object writes, fetching to the node's cache, content hashes."""

import hashlib
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path

import fsspec
import platformdirs

from freqbench.errors import UserError

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def cache_dir() -> Path:
    """The node's cache: `FREQBENCH_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("FREQBENCH_CACHE") or platformdirs.user_cache_dir("freqbench"))


def _open_fs(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URI, and the path within it.

    Raises:
        UserError: nothing reads its protocol here.
    """
    try:
        fs, inner = fsspec.core.url_to_fs(os.fspath(path))
    except (ValueError, ImportError) as error:  # no such protocol, or its package is not installed
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected a path or the URI of a known file system, got none: {reason}") from None
    return fs, str(inner)


def is_local(path: str) -> bool:
    """Whether a path or URI names a file of this machine."""
    return isinstance(_open_fs(path)[0], fsspec.implementations.local.LocalFileSystem)


def filled_in(text: str, owner: str) -> str:
    """A path with `~` and environment variables such as `${FREQBENCH_DATA}` filled in.

    Raises:
        UserError: there is no such variable; `owner` begins the line.
    """

    def value(found: re.Match[str]) -> str:
        variable = found[1] or found[2]
        if variable not in os.environ:
            raise UserError(f"{owner}: {text}: expected the environment variable {variable}, found none: set it")
        return os.environ[variable]

    filled = _VARIABLE.sub(value, text)
    return str(Path(filled).expanduser()) if filled.startswith("~") else filled


def join(root: str, *parts: str) -> str:
    """Join below a folder or URI."""
    return "/".join([root.rstrip("/"), *parts])


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    fs, inner = _open_fs(path)
    return bool(fs.exists(inner))


def read_bytes(path: str) -> bytes:
    """The whole content of one object."""
    fs, inner = _open_fs(path)
    content: bytes = fs.cat_file(inner)
    return content


def write_atomic(path: str, data: bytes) -> None:
    """Write one object so that readers see all of it or nothing, whatever dies.

    Locally: a temporary file in the same folder, fsync, `os.replace`, fsync of the folder. Remotely: one put of the
    finished bytes, as an open stream would publish a torn object on error.
    """
    fs, inner = _open_fs(path)
    if not is_local(path):
        fs.pipe_file(inner, data)
        return
    folder = Path(inner).parent
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # noqa: PTH101 (mkstemp makes it private)
        os.replace(temporary, inner)  # noqa: PTH105
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)


def create(path: str, data: bytes) -> bool:
    """Write one object only if there is none: O_EXCL locally, a create-only put elsewhere.

    Returns:
        Whether this call made it.
    """
    fs, inner = _open_fs(path)
    try:
        if is_local(path):
            Path(inner).parent.mkdir(parents=True, exist_ok=True)
            with Path(inner).open("xb") as stream:
                stream.write(data)
        else:
            fs.pipe_file(inner, data, mode="create")
    except FileExistsError:
        return False
    return True


def list_files(folder: str, suffix: str) -> list[str]:
    """Names of the files directly in a folder that end in `suffix`, sorted; none where there is no folder."""
    fs, inner = _open_fs(folder)
    fs.invalidate_cache()
    if not fs.exists(inner):
        return []
    names = (str(path).rsplit("/", 1)[-1] for path in fs.ls(inner, detail=False))
    return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))


def remove(path: str) -> None:
    """Remove one object; one that is gone already is no error."""
    fs, inner = _open_fs(path)
    if fs.exists(inner):
        fs.rm_file(inner)


def fetch(path: str) -> Path:
    """A local file with the content of a path or URI: itself where local, else a copy in the node's cache.

    Raises:
        UserError: nothing is there.
    """
    fs, inner = _open_fs(path)
    if not fs.isfile(inner):
        raise UserError(f"{path}: expected a file, found none: check the path")
    if is_local(path):
        return Path(inner)
    version = hashlib.sha256(f"{path}:{fs.ukey(inner)}".encode()).hexdigest()[:16]
    target = cache_dir() / "files" / version / Path(inner).name
    if not target.exists():
        write_atomic(str(target), read_bytes(path))
    return target


@lru_cache(maxsize=65536)
def _sha256_of(path: str, size: int, modified_ns: int) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256(path: str) -> str:
    """SHA-256 of a file's content as hex, remembered in this process for as long as size and time stamp stay."""
    local = fetch(path)
    facts = local.stat()
    return _sha256_of(str(local.resolve()), facts.st_size, facts.st_mtime_ns)
