"""A driver is stopped or killed at any moment, or finds a cluster: nothing stored is lost, nothing stands twice."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from engine.ray_session import machines, start
from engine.test_driver_faults import wait_for
from tiny_job import execute, job, rows, small
from tools.chaos.soak import is_sound, kill_drivers
from tools.chaos.test_killed import log_of, no_process_stays_behind

from freqbench.engine.ray.ray_cluster import existing
from freqbench.engine.ray.ray_cluster import machines as alive
from freqbench.results import Store

__all__ = ["no_process_stays_behind"]

pytestmark = pytest.mark.chaos

LONG = {"name": "pgd", "eps": 0.02, "steps": [300, 301, 302]}
CONTENT = job(attacks=[{"name": "gn", "std": [0.01, 0.02, 0.03]}, LONG])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    execute(CONTENT, out)
    return out


def stored(folder: Path) -> int:
    """Records that were reported as stored."""
    counts = re.findall(r"^(\d+) of \d+ records? stored", (folder / "log").read_text(), re.MULTILINE)
    return max(map(int, counts), default=0)


@pytest.mark.timeout(1500)
def test_driver_killed_ten_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    report = kill_drivers(tmp_path, kills=10, seed=1)
    assert is_sound(report), report


@pytest.mark.parametrize("seconds", [2, 4, 6, None])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_once_finishes_units(tmp_path: Path, whole: Path, sent: signal.Signals, seconds: float | None) -> None:
    """Signals are heeded while Ray starts, too."""
    process = start(tmp_path, CONTENT)
    wait_for(lambda: (tmp_path / "out" / "runs").exists() if seconds else stored(tmp_path) > 0)
    time.sleep(seconds or 0)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    assert process.wait(60) == 130
    said = log_of(tmp_path).splitlines()
    assert not [line for line in said if "worker died" in line], "Ctrl-C reached the workers too"
    kept = rows(tmp_path / "out")
    assert kept.items() <= rows(whole).items()
    if not seconds:
        assert [line for line in said if line.startswith("stopping after the attacks in flight (")]
        assert said[-1] == f"stopped: {len(kept)} records kept in out; the same command goes on"
        assert 0 < len(kept) < 2 * 2 * 6 * 2


def test_ctrl_c_twice_stops_now(tmp_path: Path) -> None:
    process = start(tmp_path, {**CONTENT, "attacks": [{"name": "pgd", "eps": 0.02, "steps": [100000, 100001]}]})
    wait_for(lambda: (tmp_path / "out" / "runs").exists())
    time.sleep(10)
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: "stopping after" in log_of(tmp_path))
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert time.monotonic() - started < 15


def test_a_cluster_that_is_there_is_used_and_left(tmp_path: Path, whole: Path) -> None:
    with machines(2, cpus=2) as cluster:
        assert start(tmp_path, CONTENT, RAY_ADDRESS=cluster.address).wait(120) == 0
        assert rows(tmp_path / "out") == rows(whole)
        (run,) = Store(str(tmp_path / "out")).runs()
        assert run["engine"] == {"name": "ray", "workers": 4, "threads": 1, "gpus_per_worker": 0}
        with existing(cluster.address):
            assert len(alive()) == 2


def started(folder: Path, address: str, num_units: int) -> "subprocess.Popen[str]":
    """A command of one worker on a cluster."""
    folder.mkdir()
    attack = {"name": "gn", "std": [number / num_units for number in range(1, num_units + 1)]}
    content = small(attacks=[attack], metrics=["dsc"], resources={"workers": 1, "threads": 1})
    return start(folder, content, "--address", address)


def test_a_small_job_passes_a_large_one_on_the_same_cluster(tmp_path: Path) -> None:
    """Each has the workers that it names; with one for all, the small one would wait for the large one's end."""
    with machines(1, cpus=2) as cluster:
        large = started(tmp_path / "large", cluster.address, 9_000)
        try:
            while not re.search(r"^[1-9]\d* of 9000 records", (tmp_path / "large/log").read_text(), re.MULTILINE):
                assert large.poll() is None, (tmp_path / "large/log").read_text()
                time.sleep(0.2)
            assert started(tmp_path / "small", cluster.address, 3).wait(120) == 0, (tmp_path / "small/log").read_text()
            assert large.poll() is None
        finally:
            large.send_signal(signal.SIGTERM)
            code = large.wait(120)
    assert code == 130, (tmp_path / "large/log").read_text()
    assert len(rows(tmp_path / "small/out")) == 3
    assert 0 < len(rows(tmp_path / "large/out")) < 9_000
