"""The driver is killed, loses its Ray or does not reach one: nothing that was stored is lost, and no process stays."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
from command_line import wait_for

from freqbench.core.errors import EngineLost, UserError
from freqbench.engine.ray.ray_cleanup import MARK
from freqbench.engine.ray.ray_cluster import _local_clusters, _twice, existing, own


@pytest.fixture
def ended_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the last cluster was killed."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


after_an_ended_cluster = pytest.mark.usefixtures("ended_cluster")


@after_an_ended_cluster
def test_stated_cluster_goes_before_this_machines_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was submitted to a cluster has these variables."""
    joined: list[str] = []
    monkeypatch.setattr("ray.init", lambda address, **_: joined.append(address))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with existing("auto"):
            assert joined == [os.environ["RAY_ADDRESS"]]


@after_an_ended_cluster
@pytest.mark.parametrize(("address", "reason"), [("auto", "ConnectionRefused"), ("127.0.0.1:1", "")])
def test_absent_or_ended_cluster_is_refused(address: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.process_iter", lambda: iter(()))
    refusal = rf"^expected a Ray cluster at {address}, got {reason}[^\n]*$"
    with pytest.raises(UserError, match=refusal), existing(address):
        pass


@after_an_ended_cluster
@pytest.mark.parametrize("variables", [{}, {MARK: "of a run"}])
def test_address_auto_means_the_ray_of_a_user_and_not_of_a_run(tmp_path: Path, variables: dict[str, str]) -> None:
    raylet = tmp_path / "raylet"
    raylet.symlink_to(sys.executable)
    command = [raylet, "-c", "import time; time.sleep(60)", "--gcs-address=127.0.0.1:7"]
    with subprocess.Popen(command, env={**os.environ, **variables}) as process:
        try:
            wait_for(lambda: psutil.Process(process.pid).cmdline()[-1:] == command[-1:])
            assert ("127.0.0.1:7" in _local_clusters()) == (not variables)
        finally:
            process.kill()


def test_a_cluster_that_does_not_take_this_driver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Ray of another run has a token of its own; Ray itself tries for a quarter of an hour."""
    monkeypatch.setattr("ray.init", lambda **_: time.sleep(60))
    monkeypatch.setattr("freqbench.engine.ray.ray_cluster.JOIN_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(UserError, match=r"^expected a Ray cluster at 127\.0\.0\.1:\d+, got no answer [^\n]*$"),
        existing(f"127.0.0.1:{server.getsockname()[1]}"),
    ):
        pass


def test_ctrl_c_is_heeded_while_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Event()

    def start_slowly(**_: object) -> None:
        started.set()
        time.sleep(60)

    def press() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("ray.init", start_slowly)
    Thread(target=press).start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt), own(1):
        pass
    assert time.monotonic() - before < 30


def test_a_ray_that_does_not_start_twice_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = list[object]()

    def late(**options: object) -> None:
        starts.append(options)
        raise Exception("The current node\ntimed out during startup.")

    monkeypatch.setattr("ray.init", late)
    line = "Ray did not start: The current node timed out during startup: try again, or take --engine serial "
    with pytest.raises(EngineLost, match=f"^{line}" + r"\(a training job: engine: local\)$"), own(2):
        pass
    assert len(starts) == 2


def test_a_ray_that_starts_late_starts_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives its processes 30 seconds, which a busy machine may miss the first time."""
    starts = list[object]()

    def late_once(**options: object) -> None:
        starts.append(options)
        if len(starts) == 1:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", late_once)
    with own(2):
        assert len(starts) == 2


def test_a_start_that_fails_after_ctrl_c_is_the_last() -> None:
    """Else its processes would start after those of the run were killed."""
    starts = list[str]()
    leave = Event()

    def killed() -> None:
        starts.append("start")
        leave.set()
        raise Exception("The current node timed out during startup.")

    with pytest.raises(Exception, match="timed out"):
        _twice(killed, leave)
    assert len(starts) == 1


def test_a_ray_that_never_starts_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node process dies while it starts; Ray itself waits for ever."""
    monkeypatch.setattr("ray.init", lambda **_: time.sleep(60))
    monkeypatch.setattr("freqbench.engine.ray.ray_cluster.START_S", 0.1)
    with pytest.raises(EngineLost, match=r"^Ray did not start: no answer in 0 s: try again, or take [^\n]*$"), own(2):
        pass
