"""What Ray costs: units a second where attacks take no time, time beside the serial engine's, and its start."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from engine.ray_session import findable_tests, ray_session
from tiny import Collector, execute, expanded, small

from freqbench.core.types import Case
from freqbench.engine import ray_cluster, ray_engine, rows, serial
from freqbench.engine import run as runner
from freqbench.engine.evaluate import PredictionScores
from freqbench.engine.ray_engine import RemoteWorker
from freqbench.engine.resources import Pool
from freqbench.engine.rows import Outcome
from freqbench.engine.worker import Masks, WorkerSpec
from freqbench.job.grid import Unit
from freqbench.metrics import Scores
from freqbench.results import Store

NUM_UNITS = 20000

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]


class InstantWorker(RemoteWorker):
    """Answers with rows of the right shape at once: what is left is driver, writer and store."""

    def run(self, unit: Unit, prefetch: Any = None) -> tuple[Outcome, Masks | None]:
        return self.answer(unit, self._case(unit.cell.dataset, unit.ref, None))

    def answer(self, unit: Unit, case: Case | None) -> tuple[Outcome, Masks | None]:
        classes = [{"dsc": 0.5}] * unit.cell.dataset.num_classes
        scores = [(PredictionScores(record={"dsc": 0.5}, classes=classes),)] * len(unit.targets)
        measured = {"run_id": self.spec.run_id, "finished_at": datetime.now(UTC)}
        own = [{"voxel_success": 0.0, "score_seconds": 0.0}] * len(unit.targets)
        return rows.scored(unit, case, Scores(values={}, reasons={}), scores, own, ("dsc",), measured), None


class Clock(Collector):
    """Times a run from its second unit on: with the first a worker imports and loads what it needs."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[float] = []
        self.ended = 0.0

    def begin(self, unit: Unit) -> None:
        self.began.append(time.monotonic())

    def take(self, outcome: Outcome) -> None:
        self.ended = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.ended - self.began[1]


def test_units_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = small(
        attacks=[{"name": "gn", "std": [i / 40000 for i in range(1, NUM_UNITS + 1)]}],
        metrics=["dsc"],
        resources={"workers": 2, "threads": 1},
    )
    began: list[float] = []
    memory: list[int] = []
    real = runner._Run.begin

    def begin(run: Any, unit: Unit) -> None:
        began.append(time.monotonic())
        if len(began) % (NUM_UNITS // 4) == 0:
            memory.append(psutil.Process().memory_info().rss >> 20)
        real(run, unit)

    monkeypatch.setattr(runner._Run, "begin", begin)
    monkeypatch.setattr(ray_engine, "RemoteWorker", InstantWorker)
    with findable_tests():
        summary = execute(content, tmp_path, engine="ray")
    seconds = began[-1] - began[0]
    assert summary.num_new == len(Store(str(tmp_path)).covered()) == NUM_UNITS
    print(f"\n{NUM_UNITS / seconds:.0f} units/s through driver, writer and store (wanted: 500)")
    print(f"RSS of the driver at each quarter: {', '.join(map(str, memory))} MiB (wanted: 1024, flat)")


def test_ray_beside_the_serial_engine() -> None:
    """One worker, one thread: the same units by both, in turns."""
    attacks = [{"name": "pgd", "eps": 0.02, "steps": list(range(200, 212))}]
    units = list(expanded(small(attacks=attacks))[1].units())
    spec = WorkerSpec(run_id="r", metrics=("dsc", "hd95"), threads=1)
    before, ratios = torch.get_num_threads(), []
    with ray_session(2):
        for _ in range(3):
            by_ray, by_serial = Clock(), Clock()
            ray_engine.run(units, spec, Pool(workers=1, threads=1, gpus=0), by_ray)
            serial.run(units, spec, by_serial)
            ratios.append(by_ray.seconds / by_serial.seconds)
    torch.set_num_threads(before)
    print(f"\nRay beside serial, {len(units)} units: {', '.join(f'{r:.3f}' for r in ratios)} (wanted: 1.02)")


def test_start_of_an_own_ray() -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        with ray_cluster.own(3):
            seconds.append(time.monotonic() - started)
    print(f"\nstart of an own Ray: {', '.join(f'{s:.1f}' for s in seconds)} s (wanted: 8)")
