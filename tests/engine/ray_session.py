"""A Ray for tests whose workers find the tests' own modules."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import Collector

from freqbench.engine import cluster, distributed
from freqbench.engine.resources import Pool
from freqbench.engine.worker import WorkerSpec
from freqbench.grid import Unit

TESTS = str(Path(__file__).parents[1])


@contextmanager
def findable_tests() -> Iterator[None]:
    """What is started within can import the tests' modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([TESTS, *filter(None, sys.path)]))
        yield


@contextmanager
def ray_session(cpus: int) -> Iterator[None]:
    with findable_tests(), cluster.own(cpus):
        yield


def run_by_ray(
    units: Sequence[Unit],
    metrics: Sequence[str],
    workers: int,
    timeout: float | None = None,
    batch: int | None = None,
    threads: int = 1,
) -> Collector:
    """Units on the Ray of this process."""
    spec = WorkerSpec(run_id="r", metrics=tuple(metrics), threads=threads, window_batch=batch, trust_code=True)
    listener = Collector()
    distributed.run(units, spec, Pool(workers=workers, threads=threads, gpus=0), listener, timeout)
    return listener
