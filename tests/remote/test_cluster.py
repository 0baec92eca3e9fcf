"""Jobs on a cluster, as `bench.py submit`, `status`, `stop` and `list` show them."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cluster_session
import pytest
import toy_training
import yaml
from cluster_session import Head
from tiny import ARGS, ROI, execute, job, rows, small

from freqbench import models
from freqbench.engine import provenance
from freqbench.results import Store

ROOT = Path(__file__).parents[2]
WALK = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import freqbench
from freqbench.attacks import ATTACKS

Path(__file__).with_name("where").write_text(freqbench.__file__)


@dataclass(frozen=True, kw_only=True)
class Walk(ATTACKS["pgd"]):
    """PGD by another name."""

    name: ClassVar[str] = "walk"
'''
BREAKS = """
    def run(self, task):
        raise ValueError("broken on purpose")
"""

Bench = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with cluster_session.head() as found:
        yield found


@pytest.fixture
def bench(head: Head, tmp_path: Path) -> Bench:
    """Starts a command in a folder of its own, which knows the head and its token by Ray's own variables."""

    def start(*words: str, **variables: str) -> "subprocess.Popen[str]":
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "bench.py"), *words],
            cwd=tmp_path,
            env={**kept, **own, **head.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def said(process: "subprocess.Popen[str]", code: int = 0) -> str:
    text, _ = process.communicate(timeout=600)
    assert process.returncode == code, text
    return text


def write(folder: Path, content: Mapping[str, Any]) -> None:
    (folder / "job.yaml").write_text(yaml.safe_dump(dict(content), sort_keys=False))


def slow_job() -> dict[str, Any]:
    """Units of seconds: enough of them that a job is still at it when it is stopped."""
    return job(attacks=[{"name": "pgd", "eps": [f"{n}/255" for n in range(1, 9)], "steps": 300}])


def id_in(text: str) -> str:
    (found,) = set(re.findall(r"freqbench-tiny-\d{8}-\d{6}-[0-9a-f]{4}", text))
    return str(found)


@pytest.mark.integration
def test_a_job_that_trains_does_so_on_the_cluster_and_leaves_its_network_where_results_go(
    bench: Bench, tmp_path: Path
) -> None:
    """The training job travels; its network is where the next submission looks for it, not in the job's own copy."""
    (tmp_path / "adv.yaml").write_text(yaml.safe_dump(toy_training.training()))
    write(tmp_path, toy_training.benchmark("train://net"))
    text = said(bench("submit", "job.yaml", "--out", "out", "--follow"))
    place = tmp_path / "runs" / "adv"
    assert f"adv: training net first, into {place} (the same command goes on)" in " ".join(text.split())
    assert "1 ok, 0 failed, 0 not done" in text
    assert (place / "net" / "training.json").is_file()


def test_a_job_that_is_submitted_and_followed_has_the_rows_of_the_serial_engine(
    head: Head, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a class and a checkpoint of one's own, which travel with it, as freqbench itself does."""
    (tmp_path / "walkabout.py").write_text(WALK)
    args = {**ARGS, "num_res_units": 1}
    net = models.build("unet", 6, (16, 16, 16), args, 3)
    metadata = {"arch": "unet", "args": args, "roi": ROI, "num_classes": 6}
    models.save_checkpoint(str(tmp_path / "nets" / "a.safetensors"), net.state_dict(), metadata, half=False)
    model = {"name": "a", "checkpoint": "nets/a.safetensors"}
    attack = {"name": "walkabout:Walk", "eps": "8/255", "steps": 2}
    content = small(models=[model], attacks=[attack], trust_code=True)
    write(tmp_path, content)
    text = said(bench("submit", "job.yaml", "--out", "out", "--follow"))
    assert "1 ok, 0 failed, 0 not done" in text
    assert text.rstrip().endswith(f"{id_in(text)}: SUCCEEDED")
    assert all("py_modules_files" in file.read_text() for file in head.folder.rglob("where"))
    (run,) = Store(str(tmp_path / "out")).runs()
    assert run["code"] == provenance.git_state()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    execute(content, tmp_path / "serial")
    assert rows(tmp_path / "out") == rows(tmp_path / "serial")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_that_is_stopped_stores_what_was_in_flight_and_goes_on_when_it_is_submitted_again(
    bench: Bench, tmp_path: Path
) -> None:
    content = slow_job()
    write(tmp_path, content)
    job_id = id_in(said(bench("submit", "job.yaml", "--out", "out")))
    end = time.monotonic() + 400
    while not _records(tmp_path / "out") and time.monotonic() < end:
        time.sleep(0.5)
    text = said(bench("stop", job_id))
    stored = _records(tmp_path / "out")
    assert text.rstrip().endswith(f"{job_id}: STOPPED")
    assert f"stopped: {stored} records are stored" in text
    assert 0 < stored < 64
    (run,) = Store(str(tmp_path / "out")).runs()
    assert (run["status"], run["records"]) == ("interrupted", stored)

    again = said(bench("submit", "job.yaml", "--out", "out", "--follow", "--set", "attacks.0.eps=1/255"))
    assert re.search(r"(\d+) were there before", again)
    assert "8 ok, 0 failed, 0 not done" in again
    listed = said(bench("list"))
    assert re.search(rf"{job_id} .*tiny .*STOPPED", listed)
    assert re.search(rf"{id_in(again)} .*tiny .*SUCCEEDED", listed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ctrl_c_stops_following_and_the_job_goes_on(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path, job())
    process = bench("submit", "job.yaml", "--out", "out", "--follow")
    assert process.stdout
    before = ""
    while "Running entrypoint" not in before and (line := process.stdout.readline()):
        before += line
    process.send_signal(signal.SIGINT)
    text = said(process, 130)
    job_id = id_in(before)
    assert f"{job_id} goes on: bench.py status {job_id}, or stop" in text
    end = time.monotonic() + 400
    while "SUCCEEDED" not in (shown := said(bench("status", job_id))) and time.monotonic() < end:
        time.sleep(5)
    assert re.search(r"status .*SUCCEEDED", shown)
    assert re.search(r"not done yet\W+0\W", shown)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_followed_job_ends_with_the_exit_code_that_run_has(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path, small())
    missing = 'models.0.checkpoint="${NOT_SET_ON_ANY_NODE}/a.pt"'
    text = said(bench("submit", "job.yaml", "--follow", "--set", missing), 2)
    assert "expected the environment variable NOT_SET_ON_ANY_NODE, found none" in text
    (tmp_path / "broken.py").write_text(WALK.replace("walk", "broken") + BREAKS)
    attack = {"name": "broken:Walk", "eps": "8/255", "steps": 2}
    write(tmp_path, small(attacks=[attack], trust_code=True))
    assert "1 records failed" in said(bench("submit", "job.yaml", "--follow"), 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_variables_reach_the_job_only_if_they_are_named(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path, small())
    words = ["submit", "job.yaml", "--follow", "--out", "out", "--set", 'models.0.checkpoint="${NET_OF_MINE}"']
    assert "found none" in said(bench(*words, NET_OF_MINE="random"), 2)
    assert "1 ok" in said(bench(*words, "--env", "NET_OF_MINE", NET_OF_MINE="random"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_connection_that_breaks_is_taken_up_again_and_nothing_is_shown_twice(
    head: Head, bench: Bench, tmp_path: Path
) -> None:
    write(tmp_path, small())
    with relay(head.url) as (url, cut):
        process = bench("submit", "job.yaml", "--out", "out", "--follow", RAY_API_SERVER_ADDRESS=url)
        assert process.stdout
        before = ""
        while "Running entrypoint" not in before and (line := process.stdout.readline()):
            before += line
        cut()
        text = before + said(process)
    assert text.count("Running entrypoint") == 1
    assert text.count("1 ok, 0 failed, 0 not done") == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("words", "variables", "complaint"),
    [
        (["list"], {"RAY_AUTH_TOKEN": "wrong"}, "expected a token that this head takes (Forbidden: Invalid"),
        (["list"], {"RAY_AUTH_MODE": "disabled"}, "expected a token that this head takes (Unauthorized: Missing"),
        (["status", "freqbench-a-1"], {}, "freqbench-a-1: expected a job that "),
        (["stop", "freqbench-a-1"], {}, "freqbench-a-1: expected a job that "),
    ],
)
def test_a_head_that_refuses_is_one_line(
    bench: Bench, words: list[str], variables: dict[str, str], complaint: str
) -> None:
    text = said(bench(*words, **variables), 2)
    assert text.startswith("error: ")
    assert complaint in text
    assert text.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_plain_path_for_results_is_refused_where_the_cluster_has_several_nodes(
    head: Head, bench: Bench, tmp_path: Path
) -> None:
    write(tmp_path, small())
    with cluster_session.joined(head):
        text = said(bench("submit", "job.yaml", "--out", "out"), 2)
    assert "error: --out out: expected a place that the 2 nodes of the cluster share, got a plain path" in text


def _records(out: Path) -> int:
    return sum(run["records"] for run in Store(str(out)).runs()) if out.exists() else 0


@contextmanager
def relay(url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Passes on what comes to a port of its own; the function cuts all connections that there are."""
    host, port = url.removeprefix("http://").split(":")
    ends: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            each.close()

    def serve() -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            far = socket.create_connection((host, int(port)))
            ends.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    def cut() -> None:
        for each in ends:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", cut
        server.shutdown(socket.SHUT_RDWR)
