"""The number of workers of a machine, and the resources of each."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_job import Collector, execute, job

from freqbench.engine import engines
from freqbench.engine.resources import Node, Pool, room, share
from freqbench.engine.worker import WorkerSpec
from freqbench.job.schema import Resources

GIB = 1 << 30


def pool(
    cores: float = 8, gpus: float = 0, memory: float = 64, units: int = 100, model: float = 1, **asked: Any
) -> Pool:
    return share(Resources(**asked), [Node(cores=cores, gpus=gpus, memory=memory * GIB)], units, int(model * GIB))


@pytest.mark.parametrize(
    ("machine", "workers", "threads", "gpus"),
    [
        # one worker for two cores, and two at least where there are two
        ({"cores": 1}, 1, 1, 0),
        ({"cores": 3}, 2, 1, 0),
        ({"cores": 9}, 4, 2, 0),
        # none without a unit: the cores go to the others
        ({"units": 3}, 3, 2, 0),
        # memory bounds them
        ({"cores": 16, "memory": 10, "model": 2}, 3, 5, 0),
        ({"cores": 2, "memory": 3}, 1, 2, 0),
        ({"cores": 2, "memory": 0.5}, 1, 2, 0),
        # a GPU each, or a share of one, which means nothing without one
        ({"cores": 16, "gpus": 4}, 4, 4, 1),
        ({"cores": 16, "gpus": 1, "gpus_per_worker": 0.25}, 4, 4, 0.25),
        ({"cores": 16, "gpus": 1, "gpus_per_worker": 0.1}, 10, 1, 0.1),
        ({"cores": 16, "gpus": 4, "gpus_per_worker": 2}, 2, 8, 2),
        ({"gpus": 4, "gpus_per_worker": 0}, 4, 2, 0),
        ({"gpus_per_worker": 1}, 4, 2, 0),
        # what the job says is taken
        ({"workers": 3}, 3, 2, 0),
        ({"threads": 4}, 2, 4, 0),
        ({"workers": 3, "threads": 5}, 3, 5, 0),
        ({"memory": 1, "workers": 6}, 6, 1, 0),
    ],
)
def test_workers_of_one_machine(machine: dict[str, Any], workers: int, threads: int, gpus: float) -> None:
    assert pool(**machine) == Pool(workers=workers, threads=threads, gpus=gpus)


def test_a_worker_takes_the_memory_of_its_share_of_a_card() -> None:
    assert pool(16, gpus=1, gpus_per_worker=0.25).memory_share == 0.25
    assert (pool(16, gpus=4, gpus_per_worker=2).memory_share, pool(16).memory_share) == (1, 1)


def test_machines_of_a_cluster_add_up() -> None:
    node = Node(cores=8, gpus=2, memory=64 * GIB)
    bare = Node(cores=4, gpus=0, memory=64 * GIB)
    assert share(Resources(), [node, node, bare], 100, GIB) == Pool(workers=4, threads=4, gpus=1)
    assert share(Resources(), [bare, bare], 100, GIB) == Pool(workers=4, threads=2, gpus=0)
    assert share(Resources(), [bare, Node(cores=1, gpus=0, memory=64 * GIB)], 100, GIB) == Pool(
        workers=3, threads=1, gpus=0
    )


EIGHT = [Node(cores=2, gpus=1, memory=64 * GIB)] * 8


def test_workers_on_cluster_are_told_memory_of_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from freqbench.engine.ray import ray_cluster, ray_engine

    told: list[tuple[float, int, int]] = []

    def run(units: Any, spec: Any, pool: Pool, listener: Any, timeout: Any, room: Any) -> None:
        told.append((spec.gpu_share, pool.workers, room([*EIGHT, EIGHT[0]])))

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(ray_cluster, "existing", lambda address: nullcontext())
    monkeypatch.setattr(ray_cluster, "machines", lambda: dict(enumerate(EIGHT)))
    monkeypatch.setattr(ray_engine, "run", run)
    attacks = [{"name": "fgsm", "eps": [0.001 * i for i in range(1, 11)]}]
    execute(job(attacks=attacks, resources={"gpus_per_worker": 0.5}), tmp_path, engine="ray")
    assert told == [(0.5, 16, 18)]


def now_there_is_room(start: Sequence[Node], now: Sequence[Node], **asked: Any) -> int:
    resources = Resources(**asked)
    return room(resources, share(resources, start, 1000, GIB, grows=True), GIB, now)


BIG, BARE, HEAD = (Node(cores=c, gpus=g, memory=64 * GIB) for c, g in ((8, 2), (4, 0), (0, 0)))


def test_joining_machines_add_room_leaving_take_it() -> None:
    assert (now_there_is_room([BARE, BARE], [BARE] * 3), now_there_is_room([BARE, BARE], [BARE])) == (6, 2)
    assert now_there_is_room([BIG], [BIG, BIG]) == 4
    assert now_there_is_room([BIG, BARE], [BARE]) == 0, "they need a GPU"
    assert now_there_is_room([BARE], [BARE, BIG]) == 6, "they need none"
    assert now_there_is_room([BIG], [BIG, Node(cores=3, gpus=2, memory=64 * GIB)]) == 2, "four cores a worker"
    assert now_there_is_room([BARE], [BARE] * 9, workers=3) == 3, "as the job says"


def test_workers_follow_machines_that_join_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker a machine; of three, two are lost while a third joins."""
    from freqbench.engine.ray import ray_workers

    machines = {"a": BARE}
    killed = list[Any]()
    listener = Collector()
    actor = SimpleNamespace(ready=SimpleNamespace(remote=object))
    started = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda spec: actor))
    monkeypatch.setattr(ray_workers.ray, "remote", lambda **_: lambda worker: started)
    monkeypatch.setattr(ray_workers.ray, "kill", killed.append)
    monkeypatch.setattr(ray_workers.ray_cluster, "machines", machines.copy)
    monkeypatch.setattr(ray_workers.ray_cluster, "HeadWatch", lambda: SimpleNamespace(answers=lambda: True))
    fleet = ray_workers.Fleet(WorkerSpec(run_id="r", metrics=()), Pool(workers=1, threads=1, gpus=0), listener, len)
    machines |= {"b": BARE, "c": BARE}
    fleet.follow_machines(num_units=9)
    machines |= {"d": BARE}
    del machines["a"], machines["b"]
    fleet.follow_machines(num_units=9)
    assert listener.said == [
        "2 machines joined: 3 workers on 3 from now on",
        "1 machine joined: 2 workers on 2 from now on",
        "2 machines gone: 2 workers on 2 from now on",
    ]
    assert (len(fleet.slots), len(killed)) == (2, 1)


def test_unchanged_machines_have_room_for_the_present_workers() -> None:
    for nodes in ([BARE, BARE], [BARE, Node(cores=1, gpus=0, memory=64 * GIB)], [BIG, BARE], [HEAD, BARE], [BIG] * 5):
        assert now_there_is_room(nodes, nodes) == share(Resources(), nodes, 1000, GIB).workers


def test_gpus_are_asked_for_where_machines_may_join() -> None:
    asked = Resources(workers=4, gpus_per_worker=0.5)
    assert share(asked, [HEAD], 100, GIB, grows=True) == Pool(workers=4, threads=1, gpus=0.5)
    assert share(asked, [HEAD], 100, GIB).gpus == 0
    assert share(Resources(workers=4), [HEAD], 100, GIB, grows=True).gpus == 0, "1 is but the default"
    assert share(Resources(gpus_per_worker=1), [BARE], 100, GIB, grows=True).gpus == 0, "for how many workers?"


def test_workers_leave_room_for_kept_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noted(resources: Resources, nodes: Sequence[Node], num_units: int, model_bytes: int) -> Pool:
        asked.append(model_bytes)
        raise NotImplementedError

    monkeypatch.setattr(engines, "share", noted)
    monkeypatch.setattr(engines, "SHORT_S", 0)
    for scope in ("window", "joint", "volume"):
        attacks = [{"name": "pgd", "eps": "8/255", "steps": 1, "scope": scope}]
        with pytest.raises(NotImplementedError):
            execute(job(attacks=attacks), tmp_path / scope, engine="auto")
    window, *others = asked
    assert [one - window for one in others] == [4 * GIB] * 2
