"""Opens the file systems of paths and URIs by fsspec's common interface, and turns their errors into one line. Options
are fsspec's (`FSSPEC_S3`, its files); endpoints and credentials are those of each cloud's own tools."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from freqbench.core import names
from freqbench.core.errors import StorageRefused, StorageUnavailable, UserError, installing, one_line
from freqbench.core.files import node_cache

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
_CLOUDS: Mapping[str, tuple[str, str]] = {  # package of each extra, and the sources of its credentials
    "s3": ("s3fs", "AWS_PROFILE, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or the machine's role"),
    "gcs": ("gcsfs", "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account"),
    "azure": (
        "adlfs",
        "AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT_NAME with a key, or the machine's identity",
    ),
}

# A server that accepts connections but never answers is given up after 20 s x 3 x 3, three minutes.
_RETRIES = {"mode": "standard", "total_max_attempts": 3}
S3_CONFIG: Mapping[str, Any] = {"connect_timeout": 10, "read_timeout": 20, "retries": _RETRIES}
S3_RETRIES = 3
_LATER = (408, 409, 425, 429)
_LOST = {  # errors of botocore, aiohttp, urllib3 and azure.core, by name, as none of them has to be installed
    *("ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError", "IncompleteRead"),
    *("ResponseParserError", "ServiceRequestError", "ServiceResponseError"),
}
_NO_CREDENTIALS = {
    *("ClientAuthenticationError", "CredentialRetrievalError", "DefaultCredentialsError", "NoCredentialsError"),
    *("PartialCredentialsError", "ProfileNotFound", "RefreshError", "TokenRetrievalError"),
}
_PACKAGES = ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs")


def filesystem_of(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of a path or URI, and the path within it; refuses a protocol that no package reads."""
    place = os.fspath(path)
    names.require_plain(place)
    protocol, separator, _ = place.partition("://")
    try:
        fs, inner = fsspec.core.url_to_fs(place, **(_options(protocol) if separator else {}))
    except (ImportError, ValueError) as error:  # no such package, no such protocol
        if isinstance(error, ImportError) and (extra := _EXTRAS.get(protocol)):
            package, _ = _CLOUDS[extra]
            raise UserError(f"{path}: expected the package {package}: {installing(extra)}") from None
        raise UserError(f"{path}: expected a path or URI of a known file system, got none: {one_line(error)}") from None
    if protocol in ("s3", "s3a"):
        fs.retries = S3_RETRIES
    return fs, str(inner)


_HASHES = ("ETag", "etag", "generation", "md5Hash", "Content-MD5", "Digest", "sha256")
_DATES = ("LastModified", "Last-Modified", "last_modified", "mtime", "updated", "created")


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """True if its files are on this machine."""
    return isinstance(fs, LocalFileSystem)


@contextmanager
def explain_errors(path: str, fs: fsspec.AbstractFileSystem, writing: bool = False) -> Iterator[None]:
    """Turns errors of the object storage `fs` into StorageRefused or StorageUnavailable, one line after the URI; a
    disk's get the `path`. Missing or existing files and others pass; while `writing`, a missing file is a missing
    bucket."""
    try:
        yield
    except (StorageRefused, StorageUnavailable, FileExistsError, IsADirectoryError, NotADirectoryError):
        raise
    except FileNotFoundError:
        if is_local(fs) or not writing:
            raise
        raise StorageRefused(f"{path}: expected its bucket or container, found none: make it, or fix the URI") from None
    except Exception as error:
        mended = None if is_local(fs) else _one_line_error(path, error)
        if mended is None:
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = path if is_local(fs) else str(node_cache.folder())  # where a copy would lie
            raise
        raise mended from error


def mark_of(info: Mapping[str, Any]) -> str:
    """Returns what tells an object's content apart by its `info`, fsspec's facts: ETag, generation or hash, else its
    date; empty if nothing does."""
    return next((str(info[name]) for name in (*_HASHES, *_DATES) if info.get(name)), "")


def version_of(info: Mapping[str, Any]) -> str:
    """Returns the version of an object by its `info`, fsspec's facts: its mark, and its size, which alone is none."""
    return f"{mark_of(info)}:{info.get('size')}"


def _options(protocol: str) -> dict[str, Any]:
    """Returns options of a file system: listings are never cached, as others write at the same time."""
    if protocol not in ("s3", "s3a"):
        return {"use_listings_cache": False}
    stated = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
    # One request at a time: an object that is read in parts while it is replaced would mix two versions.
    return {"use_listings_cache": False, "max_concurrency": 1, "config_kwargs": {**S3_CONFIG, **stated}}


def _one_line_error(path: str, error: Exception) -> OSError | None:
    names = {cls.__name__ for cls in type(error).__mro__}
    is_theirs = any(cls.__module__.partition(".")[0] in _PACKAGES for cls in type(error).__mro__)
    status = _status(error)
    reason = one_line(error, 160)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return None  # this machine's disk
    if status == 412:  # answer to a create-only put
        return FileExistsError(path)
    is_lost = isinstance(error, ConnectionError | TimeoutError) or names & _LOST
    if is_lost or status in _LATER or (status >= 500 and status != 501):
        return StorageUnavailable(f"{path}: the storage cannot be reached or refuses for now: {reason}")
    _, advice = _CLOUDS.get(_EXTRAS.get(path.partition("://")[0], ""), ("", "those of its own tools"))
    if names & _NO_CREDENTIALS:
        return StorageRefused(f"{path}: expected credentials, found none that work ({reason}): set {advice}")
    if isinstance(error, PermissionError) or status in (401, 403):
        return StorageRefused(f"{path}: access denied ({reason}): check the bucket's policy and credentials ({advice})")
    if isinstance(error, OSError) or is_theirs:
        return StorageRefused(f"{path}: the storage refuses it: {reason}: check the URI, the endpoint and the region")
    return None


def _status(error: BaseException | None) -> int:
    while error is not None:
        response = getattr(error, "response", None)
        of_boto = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        for status in (of_boto, *(getattr(error, name, None) for name in ("status_code", "status", "code"))):
            if isinstance(status, int):
                return status
        error = error.__cause__
    return 0
