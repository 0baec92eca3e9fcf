"""Objects on an S3 server over HTTP: whole or not at all under its faults, errors in one line, copies once a node."""

import hashlib
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import S3

from freqbench.core import limits, names
from freqbench.core.errors import NoFileError, StorageRefused, StorageUnavailable, UserError
from freqbench.core.files import downloads, filesystems, node_cache, storage

OLD = b"old" * 1000
NEW = b"new" * 1000
HASH = hashlib.sha256(OLD).hexdigest()


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def once(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server, for a client that gives up after one try and half a second of silence."""
    retries = {"mode": "standard", "total_max_attempts": 1}
    monkeypatch.setattr(filesystems, "S3_CONFIG", {"connect_timeout": 2, "read_timeout": 0.5, "retries": retries})
    monkeypatch.setattr(filesystems, "S3_RETRIES", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    yield s3
    s3fs.S3FileSystem.clear_instance_cache()


def gets(s3: S3) -> list[str]:
    return [request for request in s3.requests() if request.startswith("GET ")]


def test_objects_of_another_process_are_listed_at_once(s3: S3, s3_root: str) -> None:
    for folder in ("a", "ab"):
        storage.write_atomic(f"{s3_root}/{folder}/b.bin", OLD)
    assert storage.list_files(f"{s3_root}/a", "") == ["b.bin"]
    url = f"{s3.endpoint}/{s3_root.removeprefix('s3://')}/a/c.bin"
    urllib.request.urlopen(urllib.request.Request(url, b"", method="PUT"), timeout=10).close()
    assert storage.list_files(f"{s3_root}/a", "") == ["b.bin", "c.bin"]
    assert storage.list_below(s3_root, "b.bin") == ["a/b.bin", "ab/b.bin"]


def test_one_of_many_creators_made_the_object(s3_root: str) -> None:
    path = storage.join(s3_root, "lease")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda content: storage.create(path, content), (b"0", b"1", b"2", b"3")))
    assert (sum(made), storage.read_bytes(path)) == (1, b"%d" % made.index(True))


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [("refuse", 403, StorageRefused), ("refuse", 503, StorageUnavailable), ("cut", 0, StorageUnavailable)],
)
def test_failed_put_leaves_the_old_object(once: S3, s3_root: str, kind: str, status: int, error: type[OSError]) -> None:
    path = storage.join(s3_root, "a.bin")
    storage.write_atomic(path, OLD)
    once.fault(kind, status=status, times=99)
    with pytest.raises(error, match=f"^{path}: ") as caught:
        storage.write_atomic(path, NEW)
    once.fault("none")
    assert "\n" not in str(caught.value)
    assert (isinstance(caught.value, UserError), storage.read_bytes(path)) == (error is StorageRefused, OLD)


def test_nothing_torn_is_read_while_puts_are_cut(s3: S3, s3_root: str) -> None:
    path = storage.join(s3_root, "a.bin")
    length = 100_000
    storage.write_atomic(path, bytes(length))

    def write() -> None:
        for number in range(1, 5):
            s3.fault("cut", times=number % 2)
            storage.write_atomic(path, bytes([number]) * length)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = []
        while not writing.done():
            seen.append(storage.read_bytes(path))
        writing.result()
    assert {(len(content), len(set(content))) for content in seen} == {(length, 1)}
    assert storage.read_bytes(path)[0] == 4


def test_put_refused_and_get_that_ends_early_are_made_again(s3: S3, s3_root: str) -> None:
    path = storage.join(s3_root, "a.bin")
    s3.fault("refuse", times=1)
    storage.write_atomic(path, OLD)
    for read in (storage.read_bytes, lambda path: storage.fetch(path).read_bytes()):
        s3.fault("cut", method="GET", times=1)
        assert read(path) == OLD


def test_a_copy_of_which_every_get_ends_early_is_not_kept(once: S3, s3_root: str, cache: Path) -> None:
    path = storage.join(s3_root, "a.bin")
    storage.write_atomic(path, OLD)
    once.fault("cut", method="GET", times=99)
    with pytest.raises(StorageUnavailable, match=f"^{path}: "):
        storage.fetch(path)
    assert [file for file in (cache / "files").rglob("*") if file.is_file() and file.suffix != ".lock"] == []


def test_a_server_that_is_not_there_is_worth_another_try(once: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for call in (storage.exists, storage.read_bytes, storage.fetch, lambda path: storage.write_atomic(path, b"")):
        with pytest.raises(StorageUnavailable, match=r"^s3://lab/a: .* Could not connect") as caught:
            call("s3://lab/a")
        assert "\n" not in str(caught.value)


def test_no_bucket_or_credentials_is_a_line_with_advice(once: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for write in (storage.write_atomic, storage.create):
        with pytest.raises(StorageRefused, match=r"^s3://nobody/a: expected its bucket .* found none: make"):
            write("s3://nobody/a", b"")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("s3://nobody/a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageRefused, match=r"^s3://lab/a: expected credentials, found none .*: set AWS_PROFILE"):
        storage.exists("s3://lab/a")


@pytest.mark.parametrize(("uri", "package", "extra"), [("s3", "s3fs", "s3"), ("abfs", "adlfs", "azure")])
def test_package_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, uri: str, package: str, extra: str) -> None:
    monkeypatch.delitem(import_module("fsspec.registry")._registry, uri, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"^{uri}://a/b: expected the package {package}: pip install '.\[{extra}\]' in a clone of freqbench$"
    with pytest.raises(UserError, match=message):
        storage.exists(f"{uri}://a/b")


def test_create_works_where_the_file_system_knows_no_such_put(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(MemoryFileSystem):
        protocol = "plain"

        def pipe_file(self, path: str, value: bytes) -> None:
            super().pipe_file(path, value)

    fsspec.register_implementation("plain", Plain, clobber=True)
    monkeypatch.setattr(names, "PROTOCOLS", (*names.PROTOCOLS, "plain"))
    try:
        assert storage.create("plain://x/lease", b"1")
        assert not storage.create("plain://x/lease", b"2")
        assert storage.read_bytes("plain://x/lease") == b"1"
    finally:
        storage.remove("plain://x/lease")


def test_one_of_several_processes_fetches_an_object_for_all(s3: S3, s3_root: str) -> None:
    path = storage.join(s3_root, "a.bin")
    storage.write_atomic(path, OLD)
    s3.requests()
    s3.fault("slow", method="GET", seconds=0.3)
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(storage.fetch, [path] * 4))
    assert [copy.read_bytes() for copy in copies] == [OLD]
    assert len(gets(s3)) == 1


@pytest.mark.parametrize("known", [HASH, None])
def test_a_damaged_copy_is_fetched_again(s3: S3, s3_root: str, known: str | None) -> None:
    path = storage.join(s3_root, "a.bin")
    storage.write_atomic(path, OLD)
    copy = storage.fetch(path)
    copy.write_bytes(NEW)  # as long
    assert storage.fetch(path, known).read_bytes() == OLD
    copy.write_bytes(OLD[:-1])
    assert storage.fetch(path).read_bytes() == OLD
    s3.requests()
    storage.fetch(path, HASH)
    assert gets(s3) == []


def test_another_content_than_is_wanted_is_one_line(s3_root: str, tmp_path: Path) -> None:
    for path in (storage.join(s3_root, "a.bin"), str(tmp_path / "a.bin")):
        storage.write_atomic(path, NEW)
        text = rf"^{path}: expected sha256 {HASH[:12]}\.\.\., got \w{{12}}\.\.\.: the file"
        with pytest.raises(UserError, match=text):
            storage.fetch(path, HASH)


def test_the_hash_of_a_version_is_remembered_on_disk(s3: S3, s3_root: str, cache: Path) -> None:
    path = storage.join(s3_root, "a.bin")
    storage.write_atomic(path, OLD)
    assert storage.sha256(path) == HASH
    for copy in cache.rglob("a.bin"):
        copy.unlink()
    s3.requests()
    assert (storage.sha256(path), gets(s3)) == (HASH, [])
    storage.write_atomic(path, NEW)
    assert storage.sha256(path) == hashlib.sha256(NEW).hexdigest()


@pytest.mark.parametrize(
    ("meanwhile", "content"),
    [(lambda path: storage.write_atomic(path, NEW), NEW), (lambda path: node_cache.clear("files"), OLD)],
    ids=["changed", "cleared"],
)
def test_midway_change(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[str], object], content: bytes) -> None:
    path = "memory://tests-object/a.bin"
    real = MemoryFileSystem.get_file
    done = []
    storage.write_atomic(path, OLD)

    def get_file(self: MemoryFileSystem, *arguments: object, **options: object) -> None:
        real(self, *arguments, **options)
        if not done:
            done.append(meanwhile(path))

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    try:
        assert storage.fetch(path, hashlib.sha256(content).hexdigest()).read_bytes() == content
    finally:
        storage.remove(path)
    assert done in ([None], [len(OLD)])


def test_announced_excess_never_begins(s3: S3, s3_root: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = storage.join(s3_root, "large.bin")
    storage.write_atomic(path, OLD)
    s3.requests()
    monkeypatch.setattr(limits, "FILE", len(OLD) - 1)
    with pytest.raises(UserError, match=rf"^expected at most 2,999 bytes of {path}, got 3,000: "):
        storage.fetch(path)
    assert gets(s3) == []
    monkeypatch.setattr(limits, "FILE", len(OLD))
    assert storage.fetch(path).read_bytes() == OLD


class _Endless(BaseHTTPRequestHandler):
    """Never says how long a file is, and never comes to its end."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        with suppress(ConnectionError):
            while True:
                self.wfile.write(bytes(2**16))

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_file_without_an_end_is_left_where_it_gets_too_large(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FILE", 2**20)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        path = f"http://127.0.0.1:{server.server_port}/weights.pt"
        with pytest.raises(UserError, match=f"^expected at most 1,048,576 bytes of {path}, got "):
            storage.fetch(path)
        server.shutdown()
    assert not list(cache.rglob("*.tmp"))
    assert not list(cache.rglob("weights.pt"))


class _Unmarked(BaseHTTPRequestHandler):
    """A web server that names neither a version nor a date of its only file."""

    content = b"first"

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_file_without_version_and_date_is_known_by_its_content(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "FRESH_S", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Unmarked) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        path = f"http://127.0.0.1:{server.server_port}/weights.pt"
        for content in (b"first", b"other"):  # of one size
            monkeypatch.setattr(_Unmarked, "content", content)
            assert storage.fetch(path).read_bytes() == content
            assert storage.sha256(path) == hashlib.sha256(content).hexdigest()
        server.shutdown()


def test_prefetching_gives_what_is_there_and_lets_the_rest_be(s3: S3, s3_root: str) -> None:
    paths = [storage.join(s3_root, f"{number}.bin") for number in range(4)]
    for path in paths[:-1]:
        storage.write_atomic(path, path.encode())
    storage.prefetch(paths)
    s3.requests()
    for path in paths[:-1]:
        assert storage.fetch(path).read_bytes() == path.encode()
    assert gets(s3) == []
    with pytest.raises(NoFileError):
        storage.fetch(paths[-1])


@pytest.mark.parametrize("name", ["", "a/../../evil", "/etc/evil", "a\\..\\evil"])
def test_names_of_objects_never_lead_out_of_the_cache(name: str) -> None:
    with pytest.raises(UserError, match="expected names of files below it"):
        downloads.require_below("s3://lab/folder", name)
