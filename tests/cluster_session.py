"""A real head of Ray on loopback for tests, as `ray start` makes it: with a dashboard, the Jobs API and a token."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from freqbench.engine import ray_cleanup

SCRIPTS = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]
READY_S, END_S = 240.0, 45.0
HOST = "127.0.0.2"  # 127.0.0.1 would be replaced by the machine's own address, where all could reach it
STORE_BYTES = 80_000_000
HOST_NUMBERS = list(range(3, 100))  # of nodes that join: each has an address of its own


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head that is up.

    Attributes:
        url: of its dashboard.
        address: of its GCS, for nodes that join.
        token: without which it answers nobody.
        mark: in the environment of all that belongs to it.
        process: `ray start --block`; on SIGTERM it takes all of the node down.
        folder: of sessions and logs.
    """

    url: str
    address: str
    token: str
    mark: str
    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to talk to it."""
        return {"RAY_API_SERVER_ADDRESS": self.url, **token_variables(self.token)}


def token_variables(token: str) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def node_environment(token: str, **variables: str) -> dict[str, str]:
    """Of a node: this interpreter is `python` there, and nothing of this process's own Ray is."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", ray_cleanup.MARK))}
    return {
        **kept,
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",
        **token_variables(token),
        **variables,
    }


@contextmanager
def head(cpus: int = 2, variables: Mapping[str, str] | None = None) -> Iterator[Head]:
    """A head that runs jobs, its workers told nothing of this checkout; gone afterwards, and its folder with it.

    Args:
        cpus: that it has to give.
        variables: of its environment, which all that it runs has.
    """
    gcs, dashboard, agent, client = free_ports(4)
    token, mark = secrets.token_hex(16), secrets.token_hex(8)
    with (
        tempfile.TemporaryDirectory(prefix="fbh", ignore_cleanup_errors=True) as folder,  # sockets want a short path
        ray_cleanup.nothing_left(mark),
    ):
        command = [
            *(str(SCRIPTS / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address", HOST, "--port", str(gcs), "--ray-client-server-port", str(client)),
            *("--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
            *("--dashboard-agent-listen-port", str(agent), "--min-worker-port", "0", "--max-worker-port", "0"),
            *("--num-cpus", str(cpus), "--object-store-memory", str(STORE_BYTES), "--temp-dir", folder),
        ]
        with (Path(folder) / "start.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=node_environment(token, **{ray_cleanup.MARK: mark, **(variables or {})}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        found = Head(
            url=f"http://127.0.0.1:{dashboard}",
            address=f"{HOST}:{gcs}",
            token=token,
            mark=mark,
            process=process,
            folder=Path(folder),
        )
        try:
            _wait(found)
            yield found
        finally:
            end(process)


@contextmanager
def joined(
    found: Head, cpus: int = 1, resources: Mapping[str, float] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """One more node of a head's cluster, on the same machine; gone afterwards, and so is all that it ran."""
    before = _alive(found)
    (agent,) = free_ports(1)
    host = f"127.0.0.{HOST_NUMBERS.pop(0)}"
    command = [
        *(str(SCRIPTS / "ray"), "start", "--block", "--disable-usage-stats", "--address", found.address),
        *("--node-ip-address", host, "--dashboard-agent-listen-port", str(agent)),
        *("--min-worker-port", "0", "--max-worker-port", "0", "--num-cpus", str(cpus)),
        *("--object-store-memory", str(STORE_BYTES)),
    ]
    with (found.folder / f"{host}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=found.folder,
            env=node_environment(found.token, **{ray_cleanup.MARK: found.mark}),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(found, before + 1)
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a node that `ray start --block` holds, whatever it takes."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(found: Head, nodes: int = 1) -> None:
    """Until so many nodes are there: the dashboard answers before."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and found.process.poll() is None:
        if _alive(found) >= nodes:
            return
        time.sleep(0.2)
    raise RuntimeError((found.folder / "start.log").read_text(errors="replace")[-2000:])


def _alive(found: Head) -> int:
    """Nodes that are alive; 0 as long as nobody answers."""
    request = urllib.request.Request(f"{found.url}/api/v0/nodes", headers={"Authorization": f"Bearer {found.token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.read().count(b'"ALIVE"'))
    except OSError:
        return 0
