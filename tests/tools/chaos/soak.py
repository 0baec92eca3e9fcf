"""Minutes in which something dies every few seconds, then a comparison with the serial engine.

    python tests/tools/chaos/soak.py --seconds 600
    python tests/tools/chaos/soak.py --kills 50       # of the driver of one run on a Ray of its own alone

A cluster of four nodes on this machine (`cluster/local.sh`), a store on an S3 server, and a job that is submitted again
whenever it ends, as a supervisor or a person does. What dies at random: a worker, a node, the driver, the head with all
that hangs on it, the S3 server. Then nothing more is killed until the job is done, and the store is compared with one
that the serial engine makes. Prints a report as JSON; exit code 1 if a row is lost, stands twice or differs.
"""

import argparse
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from engine.ray_session import start  # noqa: E402 (a script finds them only now)
from s3_server import BUCKET, S3  # noqa: E402
from tiny_job import class_rows, execute, job, rows, small, write  # noqa: E402
from tools.chaos.test_killed import TEST, ray_processes  # noqa: E402

from freqbench.results import Store  # noqa: E402

NODES = 4
OUT = f"s3://{BUCKET}/soak"
EVERY_S = (2.0, 6.0)
FINISH_S = 900.0
WEIGHTS = {"worker": 62, "node": 18, "S3 server": 14, "driver": 4, "head": 2}
GRID = job(
    name="soak",
    attacks=[{"name": "pgd", "eps": 0.02, "steps": list(range(200, 240))}, {"name": "gn", "std": [0.01, 0.02, 0.03]}],
    resources={"workers": "auto", "threads": 1, "gpus_per_worker": 1},
)
SHORT = small(
    name="short",
    attacks=[{"name": "pgd", "eps": 0.02, "steps": list(range(20, 170))}],
    resources={"workers": 1, "threads": 1},
)
KILL_AFTER_S = (0.0, 12.0)  # of the start, or of the first rows of a run
NOTICE_S = 120.0


class Cluster:
    """Nodes of `cluster/local.sh`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self.nodes: list[int] = []

    def up(self) -> None:
        self._call("up", "--nodes", str(NODES), "--gpus", "1", "--cpus", "2")
        self.nodes = list(range(1, NODES + 1))

    def down(self) -> None:
        self._call("down")

    def kill(self, node: int) -> None:
        self._call("kill", str(node))
        self.nodes.remove(node)

    def add(self) -> None:
        self._call("add")
        pids = (self._folder / "cluster").glob("node-*.pid")
        self.nodes = sorted(int(path.stem.removeprefix("node-")) for path in pids)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a shell needs to submit to it."""
        return {**self._environment, **dict(re.findall(r"^export (\w+)=(.*)$", self._call("env"), re.MULTILINE))}

    def processes(self) -> list[psutil.Process]:
        """Processes that its nodes have started."""
        processes = []
        for path in (self._folder / "cluster").glob("node-*.pid"):
            with suppress(psutil.NoSuchProcess):
                processes += psutil.Process(int(path.read_text())).children(recursive=True)
        return processes

    def _call(self, *words: str) -> str:
        command = [str(ROOT / "cluster" / "local.sh"), *words, "--folder", str(self._folder / "cluster")]
        with (self._folder / "local.log").open("a") as log:
            done = subprocess.run(
                command, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True, timeout=240, check=True
            )
        return done.stdout


@dataclass(kw_only=True)
class Supervisor:
    """Submits the job again whenever it ends, until it has ended well."""

    folder: Path
    cluster: Cluster
    follower: subprocess.Popen[bytes] | None = None
    codes: list[int] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return bool(self.codes) and self.codes[-1] == 0

    def look(self) -> None:
        if self.follower is not None and self.follower.poll() is None:
            return
        if self.follower is not None:
            self.codes.append(self.follower.returncode)
            self.follower = None
        if self.is_done:
            return
        command = [
            sys.executable,
            str(ROOT / "bench.py"),
            "cluster",
            "submit",
            str(self.folder / "job.yaml"),
            "--out",
            OUT,
        ]
        with (self.folder / "jobs.log").open("ab") as log:
            self.follower = subprocess.Popen(
                [*command, "--follow"], env=self.cluster.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def give_up(self) -> None:
        """Nobody can follow a job whose cluster is gone."""
        if self.follower is not None and self.follower.poll() is None:
            self.follower.kill()
            self.follower.wait()


class Soak:
    """Kills at random, and what becomes of the store meanwhile."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self._folder = folder
        self.s3 = S3(folder / "s3")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "OMP_NUM_THREADS": "1", "FREQBENCH_OFFLINE": "1", "FREQBENCH_CACHE_GB": "0"}
        environment = {**os.environ, **self.s3.environment, **own}
        environment.pop("PYTHONPATH", None)  # the nodes are to have what the job brings along
        os.environ.update(self.s3.environment)
        self.cluster = Cluster(folder, environment)
        self.supervisor = Supervisor(folder=folder, cluster=self.cluster)
        self.kills = Counter[str]()
        self.seen: set[Any] = set()
        self.lost: set[Any] = set()

    @contextmanager
    def up(self) -> Iterator[None]:
        self.s3.start()
        self.cluster.up()
        try:
            yield
        finally:
            self.supervisor.give_up()
            self.cluster.down()
            self.s3.kill()

    def kill_something(self) -> None:
        (what,) = self._rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
        kill = {"worker": self._worker, "driver": self._driver, "node": self._node, "head": self._head}
        self.kills[what] += kill.get(what, self._s3_server)()

    def compare(self) -> None:
        """Notes keys that were once there and are gone."""
        keys = set(Store(OUT).covered())
        self.lost |= self.seen - keys
        self.seen |= keys

    def _worker(self) -> bool:
        return self._kill_one(lambda command: command.startswith("ray::RemoteWorker"))

    def _driver(self) -> bool:
        return self._kill_one(lambda command: "-m freqbench run" in command and "sh -c" not in command)

    def _kill_one(self, wanted: Any) -> bool:
        """One of the cluster's own processes: another cluster may run beside it."""
        processes = []
        for process in self.cluster.processes():
            with suppress(psutil.Error):
                if wanted(" ".join(process.cmdline())):
                    processes.append(process)
        if not processes:
            return False
        with suppress(psutil.NoSuchProcess):
            os.kill(self._rng.choice(sorted(processes, key=lambda process: process.pid)).pid, signal.SIGKILL)
        return True

    def _node(self) -> bool:
        others = self.cluster.nodes[1:]
        if not others:
            return False
        self.cluster.kill(self._rng.choice(others))
        time.sleep(self._rng.uniform(0, 3))
        self.cluster.add()
        return True

    def _head(self) -> bool:
        self.cluster.kill(self.cluster.nodes[0])
        time.sleep(self._rng.uniform(0, 2))
        self.supervisor.give_up()
        self.cluster.down()
        self.cluster.up()
        return True

    def _s3_server(self) -> bool:
        self.s3.kill()
        time.sleep(self._rng.uniform(0.5, 8))
        self.s3.start()
        return True


def soak(folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Kill for so many seconds, let the job end, and compare."""
    write(folder, GRID)
    chaos = Soak(folder, seed)
    with chaos.up():
        started = time.time()
        while time.time() - started < seconds:
            chaos.supervisor.look()
            time.sleep(chaos._rng.uniform(*EVERY_S))
            chaos.kill_something()
            chaos.compare()
            if chaos.supervisor.is_done:
                break
        calm = time.time()
        while not chaos.supervisor.is_done and time.time() - calm < FINISH_S:
            chaos.supervisor.look()
            time.sleep(1)
        chaos.compare()
        ended = time.time()
        execute(GRID, folder / "serial")
        return {
            "killed": dict(chaos.kills),
            "seconds of kills": round(calm - started),
            "seconds to the end after": round(ended - calm),
            "submissions and their exit codes": chaos.supervisor.codes,
            "rows once there and lost": len(chaos.lost),
            **compared(OUT, folder / "serial"),
        }


def compared(out: str | Path, whole: Path) -> dict[str, Any]:
    """Differences of a store from one that nobody disturbed."""
    stored = rows(out)
    expected = rows(whole)
    store = Store(str(out))
    made: dict[str, Any] = {
        "runs": len(store.runs()),
        "records": len(stored),
        "records of the serial engine": len(expected),
        "rows missing": len(expected.keys() - stored.keys()),
    }
    made |= {
        "rows that nobody asked for": len(stored.keys() - expected.keys()),
        "rows twice": len(store.records(("cell_id",))) - len(stored),
    }
    made |= {
        "rows that differ": sum(stored[key] != expected[key] for key in stored.keys() & expected.keys()),
        "class rows differ": class_rows(out) != class_rows(whole),
    }
    return made


def wait_until(happened: Callable[[], Any], seconds: float = NOTICE_S) -> bool:
    """Look every 50 ms for so long; whether it happened."""
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(happened())


def kill_drivers(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill the driver of one run so many times at random moments, let it end, and compare."""
    execute(SHORT, folder / "serial")
    rng = random.Random(seed)
    out = folder / "out"
    lost = set[Any]()
    productive = 0
    slowest = 0.0
    seen: set[Any] = set()
    started = time.monotonic()
    for number in range(kills):
        driver = start(folder, SHORT, "--engine", "ray")
        before = len(list(out.glob("records/*.parquet")))
        if number % 3:  # else it dies while it starts
            wait_until(lambda before=before: len(list(out.glob("records/*.parquet"))) > before)
        wait_until(lambda driver=driver: driver.poll() is not None, rng.uniform(*KILL_AFTER_S))
        driver.kill()
        driver.wait()
        killed = time.monotonic()
        wait_until(lambda: not ray_processes(), 60)
        slowest = max(slowest, time.monotonic() - killed)
        keys = set(Store(str(out)).covered())
        productive += len(keys) > len(seen)
        lost |= seen - keys
        seen |= keys
    killing = time.monotonic() - started
    code = start(folder, SHORT, "--engine", "ray").wait(FINISH_S)
    made: dict[str, Any] = {
        "kills": kills,
        "of them after new rows were stored": productive,
        "seconds of kills": round(killing),
        "most seconds until no process was left": round(slowest, 1),
        "submissions and their exit codes": [code],
        "processes left": len(ray_processes()),
    }
    made |= {
        "temporary files left": len(list(out.rglob(".freqbench-*"))),
        "rows once there and lost": len(lost),
        **compared(out, folder / "serial"),
    }
    return made


def is_sound(report: dict[str, Any]) -> bool:
    """True where nothing was lost, stands twice, differs or is left over."""
    wrong = ("rows once there and lost", "rows missing", "rows that nobody asked for", "rows twice", "rows that differ")
    left = ("class rows differ", "processes left", "temporary files left")
    ended = report["submissions and their exit codes"][-1:] == [0]
    ended &= report.get("of them after new rows were stored", 1) > 0
    return ended and report["records"] > 0 and not any(report.get(name) for name in (*wrong, *left))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="of kills")
    parser.add_argument("--kills", type=int, help="of the driver alone, in place of --seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for logs; kept [default: a temporary one]")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that cluster and server are taken down
    os.environ[TEST] = secrets.token_hex(8)  # marks what is started here
    try:
        if arguments.kills:
            report = kill_drivers(folder, arguments.kills, arguments.seed)
        else:
            report = soak(folder, arguments.seconds, arguments.seed)
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1))
    return 0 if is_sound(report) else 1


if __name__ == "__main__":
    sys.exit(main())
