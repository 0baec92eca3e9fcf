"""How many workers a machine gets, and what each takes."""

from typing import Any

import pytest

from freqbench.engine.resources import Node, Pool, share
from freqbench.job import Resources

GIB = 1 << 30


def pool(
    cores: float = 8, gpus: float = 0, memory: float = 64, units: int = 100, model: float = 1, **asked: Any
) -> Pool:
    node = Node(cores=cores, gpus=gpus, memory=memory * GIB)
    return share(Resources(**asked), [node], units, int(model * GIB))


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(1, 2, 1), (2, 2, 1), (3, 2, 1), (4, 2, 2), (8, 4, 2), (16, 8, 2), (9, 4, 2)]
)
def test_one_worker_for_two_cores_and_two_at_least(cores: int, workers: int, threads: int) -> None:
    assert pool(cores) == Pool(workers=workers, threads=threads, gpus=0)


def test_no_worker_without_a_unit_and_the_cores_go_to_the_others() -> None:
    assert pool(units=1) == Pool(workers=1, threads=8, gpus=0)
    assert pool(units=3) == Pool(workers=3, threads=2, gpus=0)


def test_memory_bounds_the_workers() -> None:
    assert pool(cores=16, memory=10, model=2) == Pool(workers=3, threads=5, gpus=0)
    assert pool(cores=2, memory=3, model=1) == Pool(workers=1, threads=2, gpus=0)
    assert pool(cores=2, memory=0.5, model=1).workers == 1


def test_a_worker_a_gpu_or_a_share_of_one() -> None:
    assert pool(16, gpus=4) == Pool(workers=4, threads=4, gpus=1)
    assert pool(16, gpus=1, gpus_per_worker=0.25) == Pool(workers=4, threads=4, gpus=0.25)
    assert pool(16, gpus=1, gpus_per_worker=0.1).workers == 10


def test_a_worker_takes_the_memory_of_its_share_of_a_card() -> None:
    assert pool(16, gpus=1, gpus_per_worker=0.25).memory_share == 0.25
    assert pool(16, gpus=4, gpus_per_worker=2).memory_share == 1
    assert pool(16).memory_share == 1
    assert pool(16, gpus=4, gpus_per_worker=2) == Pool(workers=2, threads=8, gpus=2)


def test_gpus_may_be_left_alone() -> None:
    assert pool(8, gpus=4, gpus_per_worker=0) == Pool(workers=4, threads=2, gpus=0)


def test_a_share_of_a_gpu_means_nothing_without_one() -> None:
    assert pool(8, gpus_per_worker=1) == pool(8)


def test_what_the_job_says_is_taken() -> None:
    assert pool(workers=3) == Pool(workers=3, threads=2, gpus=0)
    assert pool(threads=4) == Pool(workers=2, threads=4, gpus=0)
    assert pool(workers=3, threads=5) == Pool(workers=3, threads=5, gpus=0)
    assert pool(memory=1, workers=6).workers == 6


def test_machines_of_a_cluster_add_up() -> None:
    node = Node(cores=8, gpus=2, memory=64 * GIB)
    bare = Node(cores=4, gpus=0, memory=64 * GIB)
    assert share(Resources(), [node, node, bare], 100, GIB) == Pool(workers=4, threads=4, gpus=1)
    assert share(Resources(), [bare, bare], 100, GIB) == Pool(workers=4, threads=2, gpus=0)
    assert share(Resources(), [bare, Node(cores=1, gpus=0, memory=64 * GIB)], 100, GIB) == Pool(
        workers=3, threads=1, gpus=0
    )
