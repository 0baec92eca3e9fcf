"""Costs of Ray: units a second, and a grid on eight machines beside a lower bound."""

import asyncio
import itertools
import os
import random
import statistics
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
import s3fs
import torch
from engine.ray_session import findable_tests, machines, ray_session
from s3_server import BUCKET, S3
from tiny_job import Collector, execute, small
from tools.benchmarks.answers import answer
from tools.benchmarks.known import grid, lower_bound, steps_of

from freqbench.engine import engines
from freqbench.engine import run as runner
from freqbench.engine.ray import ray_cluster, ray_engine, ray_workers
from freqbench.engine.ray.ray_workers import RemoteWorker
from freqbench.engine.resources import Pool, share
from freqbench.engine.rows import Masks, Outcome
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit
from freqbench.job.schema import Resources
from freqbench.results import Store

MACHINES = 8
WORKERS = 16
HALF_A_CARD = {"threads": 1, "gpus_per_worker": 0.5}
STEP_S = 0.3
LOAD_S = 0.6
NUM_UNITS = 20000
HOSTS = 2

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1500)]


class InstantWorker(RemoteWorker):
    """Answers with rows of the right shape at once: what is left is driver, writer and store."""

    def run(self, unit: Unit, prefetch: Any = None) -> tuple[Outcome, Masks | None]:
        self._case(unit.cell.dataset, unit.ref, None)
        return answer(unit, self.spec.run_id), None


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
        with self._time_loading():
            self._models.get(unit.cell.source.model_id, self._slow_model)
        time.sleep(STEP_S * steps_of(unit))
        return answer(unit, self.spec.run_id), None

    def _slow_model(self) -> Any:
        time.sleep(LOAD_S)
        (Path(self.spec.run_id) / f"load-{time.time_ns()}-{id(self)}").touch()
        return torch.nn.Identity()

    run = RemoteWorker.run


class Host:
    """A process that stands for many workers: each sleeps for a unit's time, one unit after the other."""

    def __init__(self, spec: WorkerSpec, seconds: float, workers: int) -> None:
        self._spec = spec
        self._seconds = seconds
        self._workers = workers
        self._ended: dict[int, float] = {}
        self._gaps: list[tuple[float, float]] = []
        self._at_work: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ready(self, worker: int) -> tuple[str, str]:
        return ray.get_runtime_context().get_node_id(), f"simulated {worker}"

    async def passes(self, worker: int) -> int:
        return 0

    async def run(self, worker: int, unit: Unit, prefetch: Unit | None = None) -> tuple[Outcome, Masks | None]:
        arrived = time.monotonic()
        async with self._at_work[worker]:
            began = time.monotonic()
            ended = self._ended.get(worker, began)
            self._gaps.append((began - ended, max(0.0, arrived - ended)))
            made = answer(unit, self._spec.run_id)
            lasts = self._seconds * random.uniform(0.75, 1.25)  # all at once is the first round alone
            await asyncio.sleep(max(0, began + lasts - time.monotonic()))
            self._ended[worker] = time.monotonic()
        return made, None

    async def gaps(self) -> list[tuple[float, float]]:
        """Seconds of each worker between two units, and those of them without a unit to begin; the first ones aside.

        The rest is this simulation's: the loop of a process that stands for many workers is busy with another.
        """
        return self._gaps[self._workers * 2 :]


class OneOfMany:
    """An actor's handle, as the fleet asks it, to one worker of a Host."""

    def __init__(self, host: Any, worker: int) -> None:
        self.ready, self.run = (Bound(method, worker) for method in (host.ready, host.run))
        self.passes = Bound(host.passes, worker)


class Bound:
    def __init__(self, method: Any, worker: int) -> None:
        self._method = method
        self._worker = worker

    def options(self, **options: Any) -> "Bound":
        return Bound(self._method.options(**options), self._worker)

    def remote(self, *arguments: Any, **named: Any) -> Any:
        return self._method.remote(self._worker, *arguments, **named)


class Timed(Collector):
    """Times when units began, and when the last one came through."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[float] = []
        self.ended = 0.0

    def begin(self, unit: Unit) -> None:
        self.began.append(time.monotonic())

    def take(self, outcome: Outcome) -> None:
        super().take(outcome)
        self.ended = time.monotonic()


@pytest.mark.parametrize("where", ["own", "eight machines"])
def test_units_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """From the second quarter on: before, workers import what they need."""
    attacks = [{"name": "gn", "std": [i / 40000 for i in range(1, NUM_UNITS + 1)]}]
    resources = {"workers": 2, "threads": 1} if where == "own" else HALF_A_CARD
    quarters: list[tuple[float, float, int]] = []
    process = psutil.Process()
    real = runner.RunProgress.begin
    began = 0

    def begin(run: Any, unit: Unit) -> None:
        nonlocal began
        began += 1
        if began % (NUM_UNITS // 4) == 0:
            quarters.append((time.monotonic(), sum(process.cpu_times()[:2]), process.memory_info().rss >> 20))
        real(run, unit)

    monkeypatch.setattr(runner.RunProgress, "begin", begin)
    monkeypatch.setattr(ray_workers, "RemoteWorker", InstantWorker)
    with ExitStack() as stack:
        if where == "own":
            stack.enter_context(findable_tests())
        else:
            monkeypatch.setenv("RAY_ADDRESS", stack.enter_context(machines(MACHINES, cpus=2, gpus=1)).address)
        summary = execute(small(attacks=attacks, metrics=["dsc"], resources=resources), tmp_path, engine="ray")
    assert summary.num_new == len(Store(str(tmp_path)).covered()) == NUM_UNITS
    seconds, cores = (quarters[-1][i] - quarters[0][i] for i in (0, 1))
    units = 0.75 * NUM_UNITS
    print(f"\n{where}: {units / seconds:.0f} units/s through driver, writer and store (wanted: 500)")
    print(f"CPU of the driver: {1000 * cores / units:.2f} ms a unit")
    print(f"RSS at each quarter: {', '.join(str(memory) for *_, memory in quarters)} MiB (wanted: 1024, flat)")


@pytest.mark.parametrize(("workers", "seconds", "rounds"), [(256, 5.0, 3), (128, 0.5, 10), (256, 0.5, 10)])
def test_hundreds_of_workers_wait_for_no_driver(
    workers: int, seconds: float, rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers sleep in two processes; driver, Ray's calls, writer and S3 (moto's, on loopback) are real."""
    num_units = rounds * workers
    hosts: list[Any] = []
    numbers = itertools.count()

    class Simulation:
        """Ray as the fleet uses it."""

        get = staticmethod(ray.get)

        @staticmethod
        def remote(**_: Any) -> Any:
            def started(spec: WorkerSpec) -> OneOfMany:
                host = ray.remote(Host).options(num_cpus=0, max_concurrency=workers)
                while len(hosts) < HOSTS:
                    hosts.append(host.remote(spec, seconds, workers // HOSTS))
                number = next(numbers)
                return OneOfMany(hosts[number % HOSTS], number)

            return lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=started))

        @staticmethod
        def kill(_: OneOfMany) -> None: ...

    (tmp_path / "s3").mkdir()
    server = S3(tmp_path / "s3")
    process = psutil.Process()
    server.start()
    marks: list[tuple[float, float, int]] = []
    real = runner.Recorder.take
    came = itertools.count(1)

    def take(run: Any, outcome: Outcome) -> None:
        if next(came) in (workers, num_units):
            marks.append((time.monotonic(), sum(process.cpu_times()[:2]), process.memory_info().rss >> 20))
        real(run, outcome)

    def by_ray(plan: Any, engine: Any, address: Any, spec: WorkerSpec, listener: Any) -> None:
        ray_engine.run(Schedule(plan.units), spec, Pool(workers=workers, threads=1, gpus=1), listener)
        gaps.extend(gap for each in ray.get([host.gaps.remote() for host in hosts]) for gap in each)

    gaps: list[tuple[float, float]] = []
    monkeypatch.setattr(runner.Recorder, "take", take)
    monkeypatch.setattr(engines, "run_plan", by_ray)
    monkeypatch.setattr(ray_workers, "ray", Simulation)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    attacks = [{"name": "gn", "std": [i / (4 * num_units) for i in range(1, num_units // 4 + 1)]}]
    datasets = [{"name": "phantom", "shape": [16, 16, 16], "cases": 4}]
    root = f"s3://{BUCKET}/fleet"
    try:
        with ray_session(2):
            summary = execute(small(attacks=attacks, metrics=["dsc"], datasets=datasets), root, engine="ray")
        assert summary.num_new == len(Store(root).covered()) == num_units
        asked = server.requests()
    finally:
        server.kill()
        s3fs.S3FileSystem.clear_instance_cache()  # which knows this server alone
    (first, cpu, _), (last, end, memory) = marks
    units = num_units - workers
    wanted = workers / seconds
    print(f"\n{workers} workers, units of {seconds} s; 1-minute load {os.getloadavg()[0]:.1f}")
    print(f"{units / (last - first):.0f} units/s of {wanted:.0f} that the workers could do")
    print(f"driver: {1000 * (end - cpu) / units:.2f} ms of a core a unit, {memory} MiB")
    for what, lengths in zip(("gap between units", "of it without a unit"), zip(*gaps, strict=True), strict=True):
        mean = statistics.mean(lengths)
        middle = statistics.median(lengths)
        print(f"{what}: median {1000 * middle:.1f} ms, mean {1000 * mean:.1f} ms, {mean / seconds:.1%} (wanted: 2 %)")
    print(f"S3: {Counter(line.split()[0] for line in asked)} for {num_units} units")


def test_eight_machines_take_what_the_schedule_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "RemoteWorker", SleepingWorker)
    units = grid()
    listener = Timed()
    spec = WorkerSpec(run_id=str(tmp_path), metrics=("dsc",), threads=1)
    with machines(MACHINES, cpus=2, gpus=1) as cluster, ray_cluster.existing(cluster.address):
        pool = share(Resources(**HALF_A_CARD), list(ray_cluster.machines().values()), len(units), 0)
        assert pool.workers == WORKERS
        ray_engine.run(Schedule(units), spec, pool, listener)
    bound = lower_bound([STEP_S * steps_of(unit) for unit in units], WORKERS, LOAD_S)
    makespan = listener.ended - listener.began[0]
    clocks = Counter[str]()
    for row in listener.workers:
        clocks.update({name: row[f"{name}_seconds"] for name in ("load", "device", "idle")})
    loads = len(list(tmp_path.glob("load-*")))
    device = clocks["device"] / sum(clocks.values())
    print(f"\nmakespan {makespan:.1f} s, bound {bound:.1f} s: {makespan / bound - 1:.1%} above (wanted: 3 %)")
    print(f"{loads} model loads by {WORKERS} workers; device share {device:.1%} (wanted: 95 %)")
    assert len(listener.outcomes) == len(units)
    assert {row["units"] > 0 for row in listener.workers} == {True}
    assert makespan <= 1.03 * bound
    assert loads <= 2 * WORKERS
    assert device >= 0.95
