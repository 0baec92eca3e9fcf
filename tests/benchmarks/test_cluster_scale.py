"""A grid of known durations on eight machines: makespan beside what no schedule beats, and what the driver takes."""

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from benchmarks.test_engine_speed import InstantWorker
from engine.known import grid, lower_bound, steps_of
from engine.ray_session import machines
from tiny import Collector, execute, small

from freqbench.engine import ray_engine
from freqbench.engine import run as runner
from freqbench.engine.ray_cluster import existing
from freqbench.engine.ray_cluster import machines as alive
from freqbench.engine.resources import share
from freqbench.engine.rows import Outcome
from freqbench.engine.worker import Masks, WorkerSpec
from freqbench.job.grid import Unit
from freqbench.job.schema import Resources
from freqbench.results import Store

MACHINES, WORKERS = 8, 16
STEP_S, LOAD_S = 0.3, 0.6
NUM_UNITS = 20000
RESOURCES: dict[str, Any] = {"threads": 1, "gpus_per_worker": 0.5}

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1500)]


class SleepingWorker(InstantWorker):
    """Takes the time that is known for a model and for a unit; begins when all workers are ready."""

    def ready(self) -> tuple[str, str]:
        node, name = super().ready()
        folder = Path(self.spec.run_id)
        (folder / f"ready-{time.time_ns()}-{id(self)}").touch()
        while len(list(folder.glob("ready-*"))) < WORKERS:
            time.sleep(0.05)
        return node, name

    def _run(self, unit: Unit, prefetch: Unit | None) -> tuple[Outcome, Masks | None]:
        with self._load:
            self._models.get(unit.cell.source.model_id, self._slow_model)
        time.sleep(STEP_S * steps_of(unit))
        return self.answer(unit, None)

    def _slow_model(self) -> Any:
        time.sleep(LOAD_S)
        (Path(self.spec.run_id) / f"load-{time.time_ns()}-{id(self)}").touch()
        return torch.nn.Identity()

    run = ray_engine.RemoteWorker.run


class Timed(Collector):
    """When the first unit began and the last one came through."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.last = 0.0

    def begin(self, unit: Unit) -> None:
        self.first = self.first or time.monotonic()

    def take(self, outcome: Outcome) -> None:
        super().take(outcome)
        self.last = time.monotonic()


def test_a_grid_on_eight_machines_takes_what_the_schedule_s_bound_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "RemoteWorker", SleepingWorker)
    units, listener = grid(), Timed()
    spec = WorkerSpec(run_id=str(tmp_path), metrics=("dsc",), threads=1)
    with machines(MACHINES, cpus=2, gpus=1) as cluster, existing(cluster.address):
        pool = share(Resources(**RESOURCES), list(alive().values()), len(units), 0)
        assert pool.workers == WORKERS
        ray_engine.run(units, spec, pool, listener)
    bound = lower_bound([STEP_S * steps_of(unit) for unit in units], WORKERS, LOAD_S)
    makespan = listener.last - listener.first
    clocks = {name: sum(row[f"{name}_seconds"] for row in listener.workers) for name in ("load", "device", "idle")}
    loads = len(list(tmp_path.glob("load-*")))
    device = clocks["device"] / sum(clocks.values())
    print(f"\nmakespan {makespan:.1f} s, bound {bound:.1f} s: {makespan / bound - 1:.1%} above (wanted: 3 %)")
    print(f"{loads} model loads by {WORKERS} workers; device share {device:.1%} (wanted: 95 %)")
    print(f"clocks: {', '.join(f'{name} {value:.1f} s' for name, value in clocks.items())}")
    assert len(listener.outcomes) == len(units)
    assert {row["units"] > 0 for row in listener.workers} == {True}
    assert makespan <= 1.03 * bound
    assert loads <= 2 * WORKERS
    assert device >= 0.95


def test_units_a_second_on_eight_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = small(
        attacks=[{"name": "gn", "std": [i / 40000 for i in range(1, NUM_UNITS + 1)]}],
        metrics=["dsc"],
        resources=RESOURCES,
    )
    began: list[float] = []
    memory: list[int] = []
    real = runner._Run.begin

    def begin(run: Any, unit: Unit) -> None:
        began.append(time.monotonic())
        if len(began) % (NUM_UNITS // 4) == 0:
            memory.append(process.memory_info().rss >> 20)
            cores.append(sum(process.cpu_times()[:2]))
        real(run, unit)

    process = psutil.Process()
    cores: list[float] = []
    monkeypatch.setattr(runner._Run, "begin", begin)
    monkeypatch.setattr(ray_engine, "RemoteWorker", InstantWorker)
    with machines(MACHINES, cpus=2, gpus=1) as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        summary = execute(content, tmp_path, engine="ray")
    seconds = began[-1] - began[NUM_UNITS // 4]
    assert summary.num_new == len(Store(str(tmp_path)).covered()) == NUM_UNITS
    print(f"\n{NUM_UNITS * 3 / 4 / seconds:.0f} units/s of {WORKERS} workers through driver, writer and store")
    print(f"CPU of the driver: {1000 * (cores[-1] - cores[0]) / (NUM_UNITS * 3 / 4):.2f} ms a unit")
    print(f"RSS of the driver at each quarter: {', '.join(map(str, memory))} MiB")
