"""`local.sh`: real Ray nodes on this machine, seen by who has the token, killed and taken down."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import psutil
import pytest
from cluster.test_local import local

pytestmark = pytest.mark.chaos

NODES = 3
GPUS = 2
CPUS = 1

SEEN = """
import json, sys, ray
ray.init(address="auto", log_to_driver=False)
alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
where = ray.remote(num_gpus=2)(lambda: sys.executable)
print(json.dumps({
    "gpus": [node.get("GPU") for node in alive],
    "cpus": [node.get("CPU") for node in alive],
    "python": ray.get(where.remote()),
}), flush=True)
"""


def variables_of(folder: Path) -> dict[str, str]:
    """Variables that `env` exports."""
    lines = local("env", "--folder", folder).stdout.splitlines()
    return dict(shlex.split(line)[1].split("=", 1) for line in lines if line.startswith("export "))


def driver(code: str, variables: dict[str, str], without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in (os.environ | variables).items() if name not in without}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def processes_of(mark: str) -> set[int]:
    """All processes with the mark of a cluster in their environment, of any node."""
    pids = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get("FREQBENCH_LOCAL_NODE", "").startswith(mark):
                pids.add(process.pid)
        except (psutil.Error, OSError):
            continue
    return pids


def mark_of(folder: Path) -> str:
    return (folder / "mark").read_text(encoding="utf-8") + "-"


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (happened := holds()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return happened


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cluster")
    result = local("up", "--nodes", str(NODES), "--gpus", str(GPUS), "--cpus", str(CPUS), "--folder", folder)
    try:
        assert result.returncode == 0, result.stderr
        yield folder
    finally:
        local("down", "--folder", folder)


class TestCluster:
    """Tests in order: the last one kills."""

    def test_caller_sees_all_and_nothing_listens_beyond_loopback(self, cluster: Path) -> None:
        """Workers run meanwhile, as they listen too."""
        held = subprocess.Popen(
            [sys.executable, "-c", SEEN + "import time; time.sleep(30)"],
            env=os.environ | variables_of(cluster),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert held.stdout is not None
            seen = json.loads(held.stdout.readline())
            ours = {psutil.Process(pid) for pid in processes_of(mark_of(cluster)) | {held.pid}}
            ours.update(*[process.children(recursive=True) for process in ours])
            connections = list(chain.from_iterable(process.net_connections("tcp") for process in ours))
        finally:
            held.kill()
            held.communicate()
        assert seen == {"gpus": [GPUS] * NODES, "cpus": [CPUS] * NODES, "python": sys.executable}
        addresses = {each.laddr.ip.removeprefix("::ffff:") for each in connections if each.status == psutil.CONN_LISTEN}
        assert addresses == {"127.0.0.1"}

    @pytest.mark.parametrize("token", ["", "0" * 64])
    def test_a_caller_without_the_token_is_refused(self, cluster: Path, tmp_path: Path, token: str) -> None:
        variables = variables_of(cluster) | {"HOME": str(tmp_path)} | ({"RAY_AUTH_TOKEN": token} if token else {})
        hidden = ("RAY_AUTH_TOKEN_PATH",) if token else ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
        result = driver(SEEN, variables, without=hidden)
        assert result.returncode != 0
        assert "gpus" not in result.stdout
        jobs = variables["RAY_API_SERVER_ADDRESS"] + "/api/jobs/"
        request = urllib.request.Request(jobs, headers={"Authorization": f"Bearer {token}"} if token else {})
        with pytest.raises(urllib.error.HTTPError, match=r"40[13]"):
            urllib.request.urlopen(request, timeout=20)
        assert ((cluster / "token").stat().st_mode & 0o777, cluster.stat().st_mode & 0o777) == (0o600, 0o700)

    def test_second_cluster_in_the_same_folder_is_refused(self, cluster: Path, tmp_path: Path) -> None:
        result = local("up", "--folder", cluster)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
        assert "expected no cluster in" in result.stderr
        other = tmp_path / "other"
        try:
            result = local("up", "--nodes", "1", "--gpus", "0", "--folder", other)
            assert result.returncode == 0, result.stderr
            assert variables_of(other)["RAY_ADDRESS"] != variables_of(cluster)["RAY_ADDRESS"]
        finally:
            assert local("down", "--folder", other).returncode == 0
        assert not other.exists()
        assert local("status", "--folder", cluster).returncode == 0

    def test_a_killed_node_is_gone_and_another_takes_its_place(self, cluster: Path) -> None:
        before = processes_of(mark_of(cluster))
        assert local("kill", "2", "--folder", cluster).returncode == 0
        assert len(before - processes_of(mark_of(cluster))) >= 2, "its raylet and what watches it"
        assert local("add", "--folder", cluster).returncode == 0
        variables = variables_of(cluster)

        def seen() -> bool:
            result = driver(SEEN, variables)
            return result.returncode == 0 and json.loads(result.stdout)["gpus"] == [GPUS] * NODES

        assert within(90, seen)

    def test_a_node_that_died_by_itself_is_said(self, cluster: Path) -> None:
        os.kill(int((cluster / "node-3.pid").read_text(encoding="utf-8")), signal.SIGKILL)
        assert within(60, lambda: "node 3: dead" in local("status", "--folder", cluster).stdout)
        assert local("status", "--folder", cluster).returncode == 1

    def test_down_leaves_nothing_though_the_head_died_already(self, cluster: Path) -> None:
        mark = mark_of(cluster)
        temp = Path((cluster / "temp").read_text(encoding="utf-8").strip())
        assert local("kill", "1", "--folder", cluster).returncode == 0
        result = local("down", "--folder", cluster)
        assert result.returncode == 0, result.stderr
        assert not processes_of(mark)
        assert not temp.exists()
        assert not cluster.exists()
        assert local("down", "--folder", cluster).returncode == 0, "again is no mistake"
