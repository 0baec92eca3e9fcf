"""Fetches networks from the Hugging Face Hub and MONAI's model zoo, by commit, into the node's cache.
`hf://ORG/REPO@REVISION` is a repository, `hf://ORG/REPO/PATH@REVISION` a file or folder of it at a commit, tag or
branch; `monai://BUNDLE@VERSION` is `hf://MONAI/BUNDLE@VERSION`. HF_ENDPOINT and HF_TOKEN are huggingface_hub's."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from freqbench.core import limits
from freqbench.core.errors import CheckpointError, MissingDataError, UserError, installing, one_line, unknown
from freqbench.core.files import downloads, node_cache, storage
from freqbench.core.identity import digest

MONAI = "monai://"
SCHEMES = ("hf://", MONAI)
READ = ("*configs/*", "*scripts/*", "*models/*.pt", "*.json", "*.py", "*.bin", "*.pth", "*.safetensors")
"""Patterns of the files that a folder's readers may ask for, without documents, images and exported copies."""
logger = logging.getLogger(__name__)

SECONDS = 10.0  # for an answer of the server

_URI = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:/([^@]+))?@([\w./-]+)")
_COMMIT = "[0-9a-f]{40}"


class _ListedFile(BaseModel):
    """A file's bytes and, if the hub states it, its SHA-256 (hex)."""

    size: int | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class _Snapshot(BaseModel):
    """All files of a repository, by their names in it, at a commit; `check` is their digest (none in old records)."""

    commit: Annotated[str, Field(pattern=f"^{_COMMIT}$")]
    files: Mapping[str, _ListedFile]
    check: str | None = None

    @property
    def content(self) -> str:
        """Digest of commit and files."""
        return digest(self.model_dump(exclude={"check"}))


class _Place(NamedTuple):
    """A place in a repository: `path` is empty for all of it."""

    repo: str
    path: str
    revision: str

    @property
    def record(self) -> Path:
        """The file of the node's cache that keeps the server's last answer."""
        asked = ["hub", os.environ.get("HF_ENDPOINT"), self.repo, self.revision]
        return node_cache.part("networks") / f"{digest(asked)}.json"


def local(uri: str) -> Path:
    """Returns the file or folder of `uri` in the node's cache, fetched if missing. Raises UserError for one of none of
    SCHEMES, CheckpointError for what the hub does not have or give, MissingDataError if nothing can be reached."""
    place = _parse(uri)
    path = place.path
    snapshot, _ = _ask_hub(uri, place)
    within = f"{path}/" if path else ""
    wanted = [name for name in snapshot.files if name == path or (name.startswith(within) and _is_read(name))]
    if not wanted:
        raise CheckpointError(f"{uri}: {unknown('file or folder of a network', path, snapshot.files)}")
    hashes = {downloads.require_below(uri, name): snapshot.files[name].sha256 for name in wanted}
    get = partial(_get, uri, place, snapshot)
    return downloads.fetch_pinned(f"hf://{place.repo}@{snapshot.commit}", hashes, get) / path


def _is_read(name: str) -> bool:
    """True if a folder's reader may ask for a file."""
    return any(fnmatch(name, pattern) for pattern in READ)


def pin_commit(uri: str) -> tuple[str, tuple[str, ...]]:
    """Returns a `uri` of SCHEMES with a commit for its revision, and a note, else the path that it is; raises as
    `local` does."""
    if not uri.startswith(SCHEMES) or re.fullmatch(_COMMIT, (place := _parse(uri)).revision):
        return uri, ()
    snapshot, is_old = _ask_hub(uri, place)
    path = f"/{place.path}" if place.path else ""
    old = ", by the last answer of the hub, which cannot be reached now" if is_old else ""
    note = f"{place.revision} of {place.repo} is commit {snapshot.commit}{old}"
    return f"hf://{place.repo}{path}@{snapshot.commit}", (note,)


def _parse(uri: str) -> _Place:
    match = _URI.fullmatch(f"hf://MONAI/{uri.removeprefix(MONAI)}" if uri.startswith(MONAI) else uri)
    if match is None or (uri.startswith(MONAI) and match[2]):
        example = f"{MONAI}BUNDLE@VERSION" if uri.startswith(MONAI) else "hf://ORG/REPO/FILE@REVISION"
        raise UserError(f"{uri}: expected {example}, got another form: name a commit, a tag or a branch such as main")
    return _Place(match[1], (match[2] or "").strip("/"), match[3])


def _ask_hub(uri: str, place: _Place) -> tuple[_Snapshot, bool]:
    """Returns a repository at a revision, and True for the last answer of a hub that is out of reach now."""
    known = None
    with suppress(OSError, ValidationError):
        known = _Snapshot.model_validate_json(place.record.read_bytes())
    if known and known.check not in (None, known.content):
        logger.warning("%s: expected the hub's answer, got a damaged file, which is fetched anew", place.record)
        known = None
    if known and known.commit == place.revision:  # what a commit holds never changes
        return known, False
    try:
        with _lend_client(uri) as api:
            info = api.model_info(place.repo, revision=place.revision, files_metadata=True, timeout=SECONDS)
            files = {}
            for each in info.siblings:
                files[each.rfilename] = _ListedFile(size=each.size, sha256=each.lfs and each.lfs.sha256)
            known = _Snapshot(commit=info.sha, files=files)
    except MissingDataError:
        if known is None:
            raise
        return known, True
    for revision in {place.revision, known.commit}:
        record = place._replace(revision=revision).record
        storage.write_atomic(str(record), known.model_copy(update={"check": known.content}).model_dump_json().encode())
    return known, False


def _get(uri: str, place: _Place, snapshot: _Snapshot, name: str, target: Path) -> str:
    """Fetches one file of a commit to `target`; returns its address."""
    size = snapshot.files[name].size
    limits.require(size or 0, limits.FILE, f"bytes of {uri}: {name}")
    with _lend_client(uri) as api, target.open("wb") as stream:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        address = hf_hub_url(place.repo, name, revision=snapshot.commit, endpoint=api.endpoint)
        http_get(address, stream, headers=build_hf_headers(), expected_size=size)
    return str(address)


@contextmanager
def _lend_client(uri: str) -> Iterator[Any]:
    """Lends the library's client; raises CheckpointError if the hub refuses, MissingDataError if it does not answer."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if downloads.is_offline():
        raise _unreached_error(uri, endpoint, "FREQBENCH_OFFLINE is set")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError
    except ImportError:
        raise UserError(f"{uri}: expected the package huggingface_hub, got none: {installing('hub')}") from None
    try:
        yield HfApi(endpoint=endpoint)
    except (HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if 400 <= status < 500 and status not in (408, 429):
            raise CheckpointError(
                f"{uri}: {endpoint} refuses it ({one_line(error, 200)}): check repository and revision; a private or "
                "gated one needs HF_TOKEN"
            ) from None
        raise _unreached_error(uri, endpoint, one_line(error, 200)) from None


def _unreached_error(uri: str, endpoint: str, problem: str) -> MissingDataError:
    return MissingDataError(
        f"{uri}: run once with internet access, or set HF_ENDPOINT to a mirror: expected a copy in the cache or an "
        f"answer of the hub, found neither; tried {endpoint} ({problem})"
    )
