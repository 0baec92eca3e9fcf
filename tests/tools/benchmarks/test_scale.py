"""Costs of 100,000 units beside the attacks.

10,000 cells x 10 cases of one tiny network. The store is filled through its own writer with the rows that a worker
would make; `plan`, `run` and `status` are whole commands, imports included.
"""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_job import JOB, SHAPE, expanded, job, write
from tools.benchmarks.processes import ROOT, Measured

from freqbench.engine import rows
from freqbench.engine.rows import Outcome
from freqbench.engine.scoring import PredictionScores
from freqbench.job.cells import Unit
from freqbench.job.grid import Grid
from freqbench.job.schema import JobSpec
from freqbench.metrics import Scores
from freqbench.results import Store

CASES = 10
UNITS = 100_000

GRIDS: dict[str, dict[str, Any]] = {
    "10,000 budgets": {"attacks": [{"name": "gn", "std": [i / 20_000 for i in range(1, 10_001)]}]},
    "10 budgets x 1,000 seeds": {
        "attacks": [{"name": "gn", "std": [i / 100 for i in range(1, 11)]}],
        "seeds": list(range(1000)),
    },
}

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


def answer(unit: Unit, run_id: str) -> Outcome:
    """The rows of a unit as a worker makes them, with made-up scores."""
    measured = {
        "run_id": run_id,
        "finished_at": datetime.now(UTC),
        "attack_seconds": 0.001,
        "peak_memory_bytes": 2**30,
        "device": "cpu",
        "threads": 1,
        "window_batch": 1,
    }
    passes = {"num_windows": unit.num_windows, "num_forwards": 0, "num_backwards": 0}
    record = {"dsc": 0.5, "dsc_clean": 0.75, "dsc_foreground": 0.4, "dsc_foreground_clean": 0.7}
    one_class = {"label_voxels": 900, "pred_voxels": 800, "dsc": 0.5, "pred_voxels_clean": 850, "dsc_clean": 0.75}
    scores = PredictionScores(
        record=record | {"missed_classes": 0, "hallucinated_classes": 1},
        classes=tuple(one_class for _ in unit.cell.dataset.class_names),
    )
    return rows.scored_outcome(
        unit,
        SimpleNamespace(native_ranges=((-175.0, 250.0),)),
        Scores(values={}),
        [(scores,) for _ in unit.targets],
        [{"voxel_success": 0.25, "score_seconds": 0.001} for _ in unit.targets],
        ("dsc",),
        measured | passes,
    )


def content(name: str) -> dict[str, Any]:
    """The job of a grid, for one worker."""
    return job(
        name="scale",
        datasets=[{"name": "phantom", "shape": SHAPE, "cases": CASES}],
        models=JOB["models"][:1],
        metrics=["dsc"],
        resources={"workers": 1, "threads": 1},
        **GRIDS[name],
    )


def fill(out: Path, spec: JobSpec, grid: Grid) -> float:
    """A finished store; returns the writer's own seconds."""
    store, seconds = Store(str(out)), 0.0
    writer = store.writer("filled")
    for unit in grid.units():
        outcome = answer(unit, "filled")
        started = time.perf_counter()
        writer.add(outcome.records, outcome.flat_class_records())
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    writer.flush()
    seconds += time.perf_counter() - started
    store.compact()
    store.write_run("filled", {"status": "done", "records": UNITS, "failed": 0, "warnings": []})
    store.write_job({"spec": spec.model_dump(mode="json"), "index": grid.index()})
    return seconds


def show(name: str, figures: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{name} x {CASES} cases, 1-minute load {os.getloadavg()[0]:.1f}")
        for figure, wanted, measured in [("figure", "wanted", "measured"), *figures]:
            print(f"{figure:<30} | {wanted:<16} | {measured}")


@pytest.mark.parametrize("name", GRIDS)
def test_commands_on_empty_and_on_full_store(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, grid = expanded(content(name))
    path, bench = write(tmp_path, content(name)), str(ROOT / "bench.py")
    seconds = fill(tmp_path / "full", spec, grid)
    empty = Measured(tmp_path, bench, "plan", path, "--out", "empty")
    full = Measured(tmp_path, bench, "plan", path, "--out", "full")
    resumed = Measured(tmp_path, bench, "run", path, "--out", "full")
    status = Measured(tmp_path, bench, "cluster", "status", "full")
    per_unit = 1000 * seconds / UNITS
    figures = [
        ("writer, record and 6 classes", "0.5 ms a unit", f"{per_unit:.2f} ms"),
        ("plan, empty store", "5 s", str(empty)),
        ("plan, full store", "5 s", str(full)),
        ("run, nothing left", "10 s, 1024 MiB", str(resumed)),
        ("status", "2 s", str(status)),
    ]
    show(name, figures, capsys)
    assert f"0 of {UNITS} records are in empty" in empty.said
    assert f"{UNITS} of {UNITS} records are in full" in full.said
    (line,) = (line for line in resumed.said.splitlines() if line.startswith("0 records in "))
    assert f", {UNITS} were there before" in line
    assert f"full: {UNITS} of {UNITS} records" in status.said
