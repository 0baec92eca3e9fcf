"""The driver is killed, loses its Ray or does not reach one: nothing that was stored is lost, and no process stays."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest
from engine.ray_session import start
from models import nifti_tool
from tiny_job import JOB, ROI, execute, job, rows, small

from freqbench.core.errors import EngineLost, UserError
from freqbench.engine.ray.ray_cleanup import MARK
from freqbench.engine.ray.ray_cluster import _local_clusters, existing, own
from freqbench.results import KEY, Store

TEST = "FREQBENCH_TEST"
"""A variable of the environment that tells whose a process is."""


def ray_processes(name: str = "") -> list[psutil.Process]:
    """Processes of the own Ray of a driver of this test, by how its name begins: others may have theirs at the same
    time."""
    processes = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
            is_ours = MARK in variables and variables.get(TEST) == os.environ[TEST]
            if is_ours and process.status() != psutil.STATUS_ZOMBIE and process.name().startswith(name):
                processes.append(process)
        except (psutil.Error, OSError):
            continue
    return processes


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def no_process_stays_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(TEST, secrets.token_hex(8))
    yield
    wait_for(lambda: not ray_processes(), 10)


@pytest.fixture
def slow_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A model that waits before each pass for as long as there is a file `slow`, and is found by `sys.path`."""
    slow = tmp_path / "slow"
    slow.touch()
    (tmp_path / "slow_net.py").write_text(
        "import os, time\nfrom toy.net import Tiny\nclass Slow(Tiny):\n    def forward(self, images):\n"
        f"        time.sleep(0.2 * os.path.exists({str(slow)!r}))\n        return super().forward(images)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return {"name": "slow", "arch": "slow_net:Slow", "checkpoint": "random", "args": {"classes": 6}, "roi": ROI}


def committed(folder: Path) -> bool:
    """Rows are in the store."""
    return any((folder / "out" / "records").glob("*.parquet"))


def stamps(folder: Path) -> dict[Any, Any]:
    """Times at which records were finished: one that is computed again has a later time."""
    records = Store(str(folder / "out")).records((*KEY, "finished_at", "status")).to_pylist()
    return {tuple(row[name] for name in KEY): row["finished_at"] for row in records if row["status"] == "ok"}


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_black_boxes_as_targets_go_on_after_a_killed_driver_and_keep_its_rows(tmp_path: Path) -> None:
    """An ONNX file and a command, under volumes of a white box. The command is slow until the driver is killed."""
    from models import onnx_file

    temporary, slow = tmp_path / "temporary", tmp_path / "slow"
    temporary.mkdir()
    slow.touch()
    script = f"import os, time; time.sleep(0.8 * os.path.exists({str(slow)!r}))\n{nifti_tool.script('int(value > 0)')}"
    (tmp_path / "tool.py").write_text(script)
    onnx = onnx_file.write(tmp_path / "net.onnx", classes=6)
    models = [
        {**JOB["models"][0], "name": "white"},
        {"name": "onnx", "arch": "onnx", "checkpoint": onnx, "roi": ROI},
        {"name": "tool", "command": [sys.executable, str(tmp_path / "tool.py"), "{image}", "{labels}"]},
    ]
    eps = [f"{n}/255" for n in range(1, 5)]
    attacks = [{"name": "pgd", "eps": eps, "steps": 2, "sources": "white"}]
    content = job(models=models, attacks=attacks, targets=["onnx", "tool"], metrics=["dsc", "hd95"], trust_code=True)

    process = start(tmp_path, content, "--engine", "ray", TMPDIR=str(temporary), RAY_TMPDIR="/tmp")
    wait_for(lambda: committed(tmp_path) or process.poll() is not None, 240)
    process.kill()
    process.wait()
    wait_for(lambda: not ray_processes() and not list(temporary.glob("freqbench-*")))
    kept = stamps(tmp_path)
    assert 0 < len(kept) < 16
    slow.unlink()
    assert start(tmp_path, content, "--engine", "ray").wait(240) == 0, log_of(tmp_path)
    assert len(stamps(tmp_path)) == 16
    assert kept.items() <= stamps(tmp_path).items()
    execute(content, tmp_path / "whole")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_certificate_goes_on_after_a_killed_driver_with_the_draws_that_it_had(
    tmp_path: Path, slow_net: dict[str, Any]
) -> None:
    smoothing = {"name": "smoothing", "kind": "bias_field", "sigma": 0.5, "samples": 20, "eot": 1}
    ball = {"name": "ball", "kind": "bias_field"}
    attacks = [ball | {"radius": 0, "control": "random"}, ball | {"radius": 0.2, "steps": 2, "random_start": False}]
    models = [slow_net | {"defence": smoothing}]
    changes = {"models": models, "seeds": list(range(30)), "trust_code": True}
    content = small(attacks=attacks, targets="source", metrics=["dsc"], **changes)
    process = start(tmp_path, content, "--engine", "ray", command="certify")
    wait_for(lambda: committed(tmp_path) or process.poll() is not None, 240)
    process.kill()
    process.wait()
    wait_for(lambda: not ray_processes())
    kept = stamps(tmp_path)
    assert 0 < len(kept) < 31
    assert not (tmp_path / "out" / "bounds.csv").exists()
    (tmp_path / "slow").unlink()
    assert start(tmp_path, content, "--engine", "ray", command="certify").wait(240) == 0, log_of(tmp_path)
    assert kept.items() <= stamps(tmp_path).items()
    execute(content, tmp_path / "whole")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    (bound,) = (
        line for line in (tmp_path / "out" / "bounds.csv").read_text().splitlines() if ",dsc_foreground," in line
    )
    assert ",600," in bound


@pytest.mark.integration
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("raylet", "Ray's node process has died, and all workers"),
        ("gcs_server", "Ray's head process (gcs_server) has died"),
    ],
)
def test_a_run_whose_own_ray_has_lost_a_part_ends_in_a_line_and_frees_the_store(
    tmp_path: Path, name: str, complaint: str, slow_net: dict[str, Any]
) -> None:
    """Ray itself would wait for another node for ever, and for its head a minute, to end the process without a word of
    ours. Attacks that were in flight begin again by the same command."""
    attacks = [{"name": "pgd", "eps": 0.02, "steps": [20000, 20001]}]
    content = small(models=[slow_net], attacks=attacks, metrics=["dsc"], trust_code=True)
    process = start(tmp_path, content, "--engine", "ray")
    wait_for(lambda: len(ray_processes("ray::RemoteWorker")) > 0)
    for part in ray_processes(name):
        part.kill()
    assert process.wait(60) == 1
    assert log_of(tmp_path).splitlines()[-1] == f"error: {complaint}: the same command goes on"
    assert not list((tmp_path / "out" / "leases").iterdir())


@pytest.fixture
def ended_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the last cluster was killed."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.mark.usefixtures("ended_cluster")
def test_the_last_cluster_of_this_machine_does_not_stand_before_that_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that was submitted to a cluster has these variables."""
    joined: list[str] = []
    monkeypatch.setattr("ray.init", lambda address, **_: joined.append(address))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with existing("auto"):
            assert joined == [os.environ["RAY_ADDRESS"]]


@pytest.mark.usefixtures("ended_cluster")
def test_the_last_cluster_of_this_machine_is_not_waited_for_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.process_iter", lambda: iter(()))
    with (
        pytest.raises(UserError, match=r"^expected a Ray cluster at auto, got ConnectionRefused[^\n]*$"),
        existing("auto"),
    ):
        pass


@pytest.mark.usefixtures("ended_cluster")
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


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: object) -> None:
        raise Exception("The current node\ntimed out during startup.")

    monkeypatch.setattr("ray.init", late)
    line = "Ray did not start: The current node timed out during startup: try again, or take --engine serial "
    with pytest.raises(EngineLost, match=f"^{line}" + r"\(`train`: engine: local in the job\)$"), own(2):
        pass


def test_a_short_unit_of_a_new_store_is_stored_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit runs in this process in the first run only; the next run gives a unit that killed it to a worker."""

    def fail(**_: object) -> None:
        raise Exception("no Ray")

    monkeypatch.setattr("ray.init", fail)
    two = {"workers": 2, "threads": 1}
    beside_long = [{"name": "gn", "std": "8/255"}, {"name": "pgd", "eps": ["4/255", "8/255"], "steps": 20}]
    for out, content in (("long", job(resources=two)), ("short", job(resources=two, attacks=beside_long))):
        for _ in range(2):
            with pytest.raises(EngineLost, match=r"^Ray did not start: no Ray"):
                execute(content, str(tmp_path / out), engine="ray")
    assert rows(tmp_path / "long") == {}, "its first unit is no small part of the grid"
    stored = [(row["attack"], row["case_id"]) for row in Store(str(tmp_path / "short")).records().to_pylist()]
    assert stored == [("gn", "phantom_2000")] * 2, "one unit of the first run, on two networks; none of the second"


def test_a_ray_that_never_starts_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node process dies while it starts; Ray itself waits for ever."""
    monkeypatch.setattr("ray.init", lambda **_: time.sleep(60))
    monkeypatch.setattr("freqbench.engine.ray.ray_cluster.START_S", 0.1)
    with pytest.raises(EngineLost, match=r"^Ray did not start: no answer in 0 s: try again, or take [^\n]*$"), own(2):
        pass


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"^expected a Ray cluster at 127.0.0.1:1, got [^\n]*$"),
        existing("127.0.0.1:1"),
    ):
        pass
