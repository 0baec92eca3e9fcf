"""Whole objects or nothing, fetching, hashes; on folders, file://, memory:// and s3://."""

import ctypes
import hashlib
import os
import resource
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.files import downloads, storage
from freqbench.data.nibabel_files import read_header
from freqbench.models.checkpoints.files import read_metadata, read_state_dict


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    memory = fsspec.filesystem("memory")
    for path in memory.find("/tests-storage"):
        memory.rm(path)


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("s3_root"))
    places = {"folder": f"{tmp_path}/store", "file": f"file://{tmp_path}/store", "memory": "memory://tests-storage"}
    return places[request.param]


def test_a_written_object_is_listed_read_fetched_and_removed(root: str) -> None:
    """Listed in order, by the suffix, without hidden files."""
    folder = storage.join(root, "x")
    path = storage.join(root, "x", "a.bin")
    assert storage.list_files(folder, ".bin") == []
    assert not storage.exists(path)
    for name in ("b.bin", "a.bin", "c.txt", ".hidden.bin"):
        storage.write_atomic(storage.join(folder, name), b"one")
    storage.write_atomic(path, b"two")
    assert storage.list_files(folder, ".bin") == ["a.bin", "b.bin"]
    assert storage.exists(path)
    assert storage.read_bytes(path) == b"two"
    assert (storage.fetch(path).name, storage.fetch(path).read_bytes()) == ("a.bin", b"two")
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_is_not_replaced_by_a_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """The rename would replace a device, too, for root."""
    make(tmp_path / "there")
    with pytest.raises(UserError, match="there: expected a file or nothing there, got a folder, device or pipe"):
        storage.write_atomic(str(tmp_path / "there"), b"one")
    assert [path.name for path in tmp_path.iterdir() if not path.is_file()] == ["there"]


def test_a_file_that_vanishes_while_it_is_replaced_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process clears a cache between two looks at the file."""
    target = tmp_path / "a"
    look = Path.stat
    target.write_bytes(b"before")

    def looked(path: Path, **how: bool) -> os.stat_result:
        facts = look(path, **how)
        if path == target:
            target.unlink(missing_ok=True)
        return facts

    monkeypatch.setattr(Path, "stat", looked)
    storage.write_atomic(str(target), b"after")
    monkeypatch.undo()
    assert target.read_bytes() == b"after"


def test_fetch_of_nothing_or_of_a_folder_is_one_line(root: str) -> None:
    storage.write_atomic(storage.join(root, "folder", "a.bin"), b"")
    for name in ("nothing", "folder"):
        path = storage.join(root, name)
        with pytest.raises(UserError, match="expected a file, found none") as caught:
            storage.fetch(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_local_file_is_not_copied(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    assert storage.fetch(str(tmp_path / "a.bin")) == tmp_path / "a.bin"
    assert not cache.exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_dying_write_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.bin"
    storage.write_atomic(str(path), b"old")

    def die(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, call, die)
    with pytest.raises(OSError, match="disk full"):
        storage.write_atomic(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("write", [storage.write_atomic, storage.create])
def test_a_disk_that_takes_no_more_is_named(write: Callable[[str, bytes], object], tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(str(tmp_path / "out" / "a"), bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == str(tmp_path / "out" / "a")


def test_content_is_on_disk_before_its_name_and_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    storage.write_atomic(str(tmp_path / "a.bin"), b"x")
    assert (calls, stat.S_IMODE((tmp_path / "a.bin").stat().st_mode)) == (["fsync", "replace", "fsync"], 0o644)


def test_sha256_of_a_known_content(root: str) -> None:
    storage.write_atomic(storage.join(root, "abc"), b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert storage.sha256(storage.join(root, "abc")) == expected


def test_sha256_of_a_file_that_is_not_young_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    monkeypatch.setattr(downloads, "YOUNG_NS", 0)
    first = storage.sha256(str(path))
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: pytest.fail("hashed again"))
    assert storage.sha256(str(path)) == first


def _same_stat(path: Path, content: bytes) -> None:
    """Writes a file in place, with the time stamp of the year 2001."""
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))


def _renamed(path: Path, content: bytes) -> None:
    """Puts another file into a file's place, with the same time stamp."""
    _same_stat(path.with_suffix(".new"), content)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("write", [_same_stat, _renamed])
@pytest.mark.parametrize("young_ns", [0, downloads.YOUNG_NS])
def test_a_file_replaced_with_the_same_size_and_time_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None], young_ns: int
) -> None:
    monkeypatch.setattr(downloads, "YOUNG_NS", young_ns)
    path = tmp_path / "a.bin"
    seen = list[str]()
    for content in (b"abc", b"abd"):
        write(path, content)
        seen.append(storage.sha256(str(path)))
        time.sleep(0.02)  # longer than the clock's tick
    assert seen == [hashlib.sha256(content).hexdigest() for content in (b"abc", b"abd")]


def test_a_young_file_is_hashed_anew_as_its_clock_may_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    facts = path.stat()
    first = storage.sha256(str(path))
    path.write_bytes(b"abd")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", lambda self, **_: facts)  # stands for a clock of 2 s
        patch.setattr(Path, "is_file", lambda self: True)
        assert storage.sha256(str(path)) != first


def test_an_answer_of_a_file_is_kept_by_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    asked = list[str]()

    @storage.once_each_content
    def read(given: str) -> str:
        asked.append(given)
        return Path(given).read_text()

    for content in ("a", "b", "a"):
        path.write_text(content)
        assert read(str(path)) == content
    assert len(asked) == 2


def test_an_answer_of_a_file_that_changes_meanwhile_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    changes = ["b"]

    @storage.once_each_content
    def read(given: str) -> str:
        if changes:
            path.write_text(changes.pop())
        return Path(given).read_text()

    with pytest.raises(UserError, match="expected a file that stays while it is read"):
        read(str(path))
    path.write_text("a")
    assert read(str(path)) == "a"


def test_join_takes_a_trailing_slash() -> None:
    assert storage.join("a/", "b", "c") == "a/b/c" == storage.join("a", "b", "c")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Take from this thread what lets root read every file: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] &= ~0b110
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize("place", ["file", "folder"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("weights.safetensors", read_metadata),
        ("weights.pt", read_state_dict),
        ("scan.nii.gz", lambda path: read_header(Path(path))),
        ("run.json", storage.read_bytes),
        ("job.yaml", config.read),
    ],
)
def test_unreadable_file_is_reported(tmp_path: Path, name: str, read: Callable[[str], object], place: str) -> None:
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    path.write_bytes(b"something")
    (path if place == "file" else path.parent).chmod(0)
    with unprivileged(), pytest.raises((OSError, UserError), match="Permission denied") as refused:
        read(str(path))
    assert str(path) in str(refused.value)
    path.parent.chmod(0o700)
