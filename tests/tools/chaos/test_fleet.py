"""Machines that come and go under a running grid: real ones of Ray, processes here."""

import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from engine.cases import run_serially, units_of
from engine.faults import Faulty, add_attack
from engine.ray_session import machines, run_by_ray
from s3_server import free_port
from tiny_job import Collector, results, small

from freqbench.engine import resources
from freqbench.engine.ray import ray_cluster, ray_engine, ray_workers
from freqbench.engine.ray.ray_cluster import existing
from freqbench.engine.ray.ray_cluster import machines as nodes_by_id
from freqbench.engine.resources import Node, Pool
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit
from freqbench.job.schema import Resources

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

METRICS = ("dsc", "hd95")


@pytest.fixture(autouse=True)
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    add_attack(monkeypatch, Faulty)
    monkeypatch.setattr(ray_cluster, "FOLLOW_S", 1.0)


def slow_units(number: int) -> list[Unit]:
    """Units of about four seconds each."""
    attack = {"name": "faulty", "place": "nowhere", "fault": "slow", "eps": [0.001 * i for i in range(1, number + 1)]}
    return units_of(small(attacks=[attack]))


class Watcher(Collector):
    """Does something once: when so many units have begun, or at the first line with a word."""

    def __init__(self, action: Callable[[], Any], count: int = 0, word: str = "\n") -> None:
        super().__init__()
        self._left = count
        self._word = word
        self._action = action

    def begin(self, unit: Unit) -> None:
        self._left -= 1
        if self._left == 0:
            self._action()

    def tell(self, text: str) -> None:
        super().tell(text)
        if self._word in text:
            self._word = "\n"
            self._action()


def auto(workers: int) -> Callable[[list[Node]], int]:
    """Room as the runner reckons it for `workers: auto`, one core a worker."""
    return partial(resources.room, Resources(threads=1), Pool(workers=workers, threads=1, gpus=0), 0)  # type: ignore[return-value]


def test_machine_that_is_killed_in_middle_of_unit_costs_no_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker's death is known seconds before its own; a unit that it cost a try would be given up here."""
    monkeypatch.setattr("freqbench.engine.retry.TRIES", 1)
    units = slow_units(8)
    with machines(2, cpus=1) as cluster, existing(cluster.address):
        lost = next(node for node in cluster.list_all_nodes() if not node.head)
        kill = threading.Timer(1, lambda: cluster.remove_node(lost, allow_graceful=False))
        listener = Watcher(kill.start, count=3)
        run_by_ray(units, METRICS, workers=2, room=auto(2), listener=listener)
        kill.join()
    assert [text for text in listener.said if text.endswith(": its machine is gone: it is tried again")]
    assert "1 machine gone: 1 worker on 1 from now on" in listener.said
    assert not [outcome for outcome in listener.outcomes if outcome.failed]
    assert results(listener.outcomes) == results(run_serially(units, metrics=METRICS))


@pytest.mark.parametrize("workers", ["auto", 2])
def test_a_machine_that_joins_gets_a_worker_and_work(workers: str | int) -> None:
    units = slow_units(12)
    with machines(1, cpus=1) as cluster, existing(cluster.address):
        asked = Resources(workers=workers, threads=1)
        pool = resources.share(asked, list(nodes_by_id().values()), len(units), 0, grows=True)
        assert pool.workers == (1 if workers == "auto" else 2)
        room = partial(resources.room, asked, pool, 0)
        listener = Watcher(lambda: cluster.add_node(num_cpus=1, object_store_memory=80 << 20), count=1)
        run_by_ray(units, METRICS, workers=pool.workers, room=room, listener=listener)
    assert "1 machine joined: 2 workers on 2 from now on" in listener.said
    assert [row["worker"] for row in listener.workers if row["units"]] == [1, 2]
    assert sum(row["units"] for row in listener.workers) == len(units) == len(listener.outcomes)


def test_gpus_are_asked_for_before_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster scales from no machine."""
    monkeypatch.setattr(ray_workers, "WAITING_S", 1.0)
    units = slow_units(2)
    with machines(1, cpus=2) as cluster, existing(cluster.address):
        asked = Resources(workers=2, threads=1, gpus_per_worker=0.5)
        pool = resources.share(asked, list(nodes_by_id().values()), len(units), 0, grows=True)
        assert pool == Pool(workers=2, threads=1, gpus=0.5)
        add = partial(cluster.add_node, num_cpus=2, num_gpus=1, object_store_memory=80 << 20)
        listener = Watcher(add, word="waiting for Ray: 2 of 2 workers have not started: each needs 1 CPU and 0.5 GPU")
        spec = WorkerSpec(run_id="r", metrics=METRICS, device="cpu", trust_code=True)
        ray_engine.run(Schedule(units), spec, pool, listener, room=partial(resources.room, asked, pool, 0))
    assert len(listener.outcomes) == 2
    assert {row["units"] for row in listener.workers} == {1}


def metrics_of(port: int) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("ray_freqbench_")]
    values = {}
    for line in lines:
        name, value = line.rsplit(" ", 1)
        attack = name.split('attack="')[1].split('"')[0]
        values[f"{name.split('{')[0]} {attack}"] = float(value)
    return values


def test_records_failures_and_device_seconds_stand_in_prometheus() -> None:
    good = {"name": "fgsm", "eps": [0.01, 0.02, 0.03]}
    bad = {"name": "faulty", "place": "no", "fault": "raise"}
    units = units_of(small(attacks=[good, bad]))
    port = free_port()
    with machines(1, cpus=1, metrics_export_port=port) as cluster, existing(cluster.address):
        device = sum(row["device_seconds"] for row in run_by_ray(units, METRICS, workers=1).workers)
        end = time.monotonic() + 60
        records = 0.0
        while records < 4 and time.monotonic() < end:
            time.sleep(2)
            values = metrics_of(port)
            records = sum(value for name, value in values.items() if "records" in name)
    assert {name: value for name, value in values.items() if "seconds" not in name} == {
        "ray_freqbench_records_total fgsm": 3,
        "ray_freqbench_records_total faulty": 1,
        "ray_freqbench_failures_total faulty": 1,
    }
    seconds = [values[f"ray_freqbench_device_seconds_total {attack}"] for attack in ("fgsm", "faulty")]
    assert sum(seconds) == pytest.approx(device, abs=0.01)
