"""Jobs on a real head of Ray, as `freqbench cluster submit` and `status` show them."""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from s3_server import free_port
from tiny_job import ARGS, execute, rows, save_weights, small, write

from freqbench.engine import provenance
from freqbench.engine.ray import ray_cleanup
from freqbench.results import Store

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
READY_S = 240.0
END_S = 45.0
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
Bench = Callable[..., str]


@contextmanager
def started(folder: str, mark: str, url: str, variables: dict[str, str]) -> Iterator[None]:
    """`ray start --head` on loopback; this interpreter is `python` there, and nothing of this process's own Ray is."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", ray_cleanup.MARK))}
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_worker_niceness": "0"}
    path = f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [
        *(str(SCRIPTS / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus", "2"),
        # 127.0.0.1 would be replaced by the machine's own address, where all could reach it.
        *("--node-ip-address", "127.0.0.2", "--port", str(free_port()), "--ray-client-server-port", str(free_port())),
    ]
    command += [
        *("--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", url.rpartition(":")[2]),
        *("--dashboard-agent-listen-port", str(free_port()), "--min-worker-port", "0", "--max-worker-port", "0"),
        *("--object-store-memory", "80000000", "--temp-dir", folder),
    ]
    with Path(folder, "start.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**kept, **own, **variables, "PATH": path, ray_cleanup.MARK: mark},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    token = {"Authorization": f"Bearer {variables['RAY_AUTH_TOKEN']}"}
    deadline = time.monotonic() + READY_S
    is_ready = False
    try:
        while not is_ready:  # the dashboard answers before the node is there
            is_late = process.poll() is not None or time.monotonic() > deadline
            assert not is_late, Path(folder, "start.log").read_text()
            time.sleep(0.2)
            try:
                request = urllib.request.Request(f"{url}/api/v0/nodes", headers=token)
                with urllib.request.urlopen(request, timeout=5) as answer:
                    is_ready = b'"ALIVE"' in answer.read()
            except OSError:
                continue
        yield
    finally:
        process.send_signal(signal.SIGTERM)  # it takes all of the node down
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder of a head's sessions and logs, and what a process needs in its environment to talk to it."""
    url = f"http://127.0.0.1:{free_port()}"
    mark = secrets.token_hex(8)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with (
        tempfile.TemporaryDirectory(prefix="fbh", ignore_cleanup_errors=True) as folder,  # sockets want a short path
        ray_cleanup.nothing_left(mark),
        started(folder, mark, url, variables),
    ):
        yield Path(folder), {"RAY_API_SERVER_ADDRESS": url, **variables}


@pytest.fixture
def bench(head: tuple[Path, dict[str, str]], tmp_path: Path) -> Bench:
    """Runs a command in a folder of its own; it knows the head and its token by Ray's own variables."""

    def say(*words: str) -> str:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, str(ROOT / "bench.py"), *words],
            cwd=tmp_path,
            env={**kept, **own, **head[1]},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return say


def id_in(text: str) -> str:
    (job_id,) = set(re.findall(r"freqbench-tiny-\d{8}-\d{6}-[0-9a-f]{4}", text))
    return str(job_id)


@pytest.mark.integration
def test_job_submitted_and_followed_has_rows_of_serial_engine(
    head: tuple[Path, Any], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class and a checkpoint of one's own travel with the job, as freqbench itself does."""
    (tmp_path / "walkabout.py").write_text(WALK)
    save_weights(tmp_path / "nets" / "a.safetensors", seed=3, args={**ARGS, "num_res_units": 1})
    model = {"name": "a", "checkpoint": "nets/a.safetensors"}
    content = small(models=[model], attacks=[{"name": "walkabout:Walk", "eps": "8/255", "steps": 2}], trust_code=True)
    write(tmp_path, content)
    text = bench("cluster", "submit", "job.yaml", "--out", "out", "--follow")
    assert "\n1 record in " in text
    assert not re.search(r" -- |Running entrypoint", text), "a line of Ray's own"
    assert bench("cluster", "status", id_in(text)).startswith(f"{id_in(text)}: succeeded, {tmp_path / 'out'}\nwaiting ")
    assert all("py_modules_files" in file.read_text() for file in head[0].rglob("where"))
    (run,) = Store(str(tmp_path / "out")).runs()
    assert run["code"] == provenance.git_state()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    execute(content, tmp_path / "serial")
    assert rows(tmp_path / "out") == rows(tmp_path / "serial")
