"""A Ray for tests whose workers find the tests' own modules."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_job import Collector, write

from freqbench.engine.ray import ray_cluster, ray_engine
from freqbench.engine.resources import Node, Pool
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit

TESTS = str(Path(__file__).parents[1])
ROOT = Path(TESTS).parent


@contextmanager
def findable_tests() -> Iterator[None]:
    """Context in which started processes can import the tests' modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([TESTS, *filter(None, sys.path)]))
        yield


@contextmanager
def ray_session(cpus: int) -> Iterator[None]:
    with findable_tests(), ray_cluster.own(cpus):
        yield


@contextmanager
def machines(number: int, cpus: int, gpus: int = 0, **head: Any) -> Iterator[Any]:
    """A cluster of processes of this one, with GPUs that are none, and the token that this process's Ray has read."""
    from ray._raylet import Config
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": 80 << 20}
    with findable_tests(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # as in ray_cluster.own
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", ray_cluster._token())
        Config.initialize("")  # this process may have read the variables before, when there was no token
        cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False, **head})
        try:
            for _ in range(number - 1):
                cluster.add_node(**machine)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()


def start(folder: Path, content: dict[str, Any], *options: str, **variables: str) -> subprocess.Popen[str]:
    """A command of `bench.py` in a process group of its own, as a terminal starts it."""
    with findable_tests():
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    words = [sys.executable, str(ROOT / "bench.py"), "run", write(folder, content), "--out", "out", *options]
    log = (folder / "log").open("a")
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run_by_ray(
    units: Sequence[Unit],
    metrics: Sequence[str],
    workers: int,
    timeout: float | None = None,
    batch: int | None = None,
    threads: int = 1,
    room: Callable[[Sequence[Node]], int] | None = None,
    listener: Collector | None = None,
    **settings: Any,
) -> Collector:
    spec = WorkerSpec(
        run_id="r", metrics=tuple(metrics), threads=threads, window_batch=batch, trust_code=True, **settings
    )
    listener = listener or Collector()
    ray_engine.run(Schedule(units), spec, Pool(workers=workers, threads=threads, gpus=0), listener, timeout, room)
    return listener
