"""This process's Ray: a folder that its sockets fit in, and advice where workers end for memory."""

import errno
import logging
from pathlib import Path

import pytest
from engine.cases import units_of
from engine.ray_session import ray_session
from tiny_job import Collector, small

from freqbench.core.errors import UserError
from freqbench.engine.ray import ray_cluster, ray_engine, ray_workers
from freqbench.engine.resources import Pool
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import WorkerSpec


@pytest.fixture(autouse=True)
def _no_folder_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)


@pytest.mark.parametrize(("length", "stays"), [(39, True), (40, False)])
@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_that_leaves_room_for_sockets_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, length: int, stays: bool
) -> None:
    """The sockets' part has 68 bytes, a path at most 107."""
    monkeypatch.setattr(ray_cluster, "LONGEST_SOCKET", 107)
    folder = "/tmp/" + "x" * (length - 5)
    monkeypatch.setenv(name, folder)
    with caplog.at_level(logging.WARNING):
        assert ray_cluster._folder_for_files() == ({} if stays else {"RAY_TMPDIR": "/tmp"})
    said = f"Ray puts its files into /tmp/ray, as {name} is {folder}, of {length} bytes, too long for its sockets"
    assert (said in caplog.text) != stays


def test_unwritable_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "a/b")
    assert ray_cluster._folder_for_files() == {"RAY_TMPDIR": "/tmp"}
    assert "as TMPDIR is a/b, which is not writable" in caplog.text


def test_full_folder_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A disk is full once a file is written to it, not before."""
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.is_relative_to(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(ray_cluster, "LONGEST_SOCKET", 999)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert ray_cluster._folder_for_files() == {"RAY_TMPDIR": "/tmp"}
    assert f"as TMPDIR is {tmp_path}, where less than 8 MiB are left" in caplog.text


def test_no_folder_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "FOLDERS", ("/proc",))
    monkeypatch.setenv("TMPDIR", "/tmp/" + "y" * 99)
    with pytest.raises(UserError, match=r"at most 39 bytes for its files, got /tmp/y+, of 104 bytes, .*set RAY_TMPDIR"):
        ray_cluster._folder_for_files()


@pytest.mark.integration
def test_workers_ended_for_memory_come_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray takes any use of memory for too much."""
    for name, value in {"CRASHES": 2, "START_S": 0.0}.items():
        monkeypatch.setattr(ray_workers, name, value)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    listener = Collector()
    pool = Pool(workers=1, threads=1, gpus=0)
    with ray_session(1), pytest.raises(UserError, match="no worker starts: see the warnings above"):
        ray_engine.run(Schedule(units_of(small())), WorkerSpec(run_id="r", metrics=("dsc",)), pool, listener)
    advice = "Ray ended it, as its machine ran low on memory: take fewer workers (resources.workers), or free memory"
    assert listener.said == [
        f"worker 1 died while it started: {advice}",
        f"worker 1 does not start, and the run goes on without it: {advice}",
    ]
