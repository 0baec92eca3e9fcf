"""Costs of a store of 1,000,000 records, and of its reports.

Two datasets x 5 sources x 5 targets x 50 attack settings x 10 seeds x 40 cases of 20 patients. Every column of both
tables has a value, most of them random: wider than real ones, and harder to compress. They are made as Arrow tables and
committed as a run commits them, in files of 5,000 records, to a folder and to S3 over HTTP on loopback. What reads,
merges and reports them are processes of their own, whose memory is theirs.

What S3 takes here is a test server's time, in one Python process on the same cores: an upper bound.
"""

import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from s3_server import BUCKET, S3
from tools.benchmarks.processes import Measured
from tools.benchmarks.random_rows import table

from freqbench.results import CLASS_RECORDS, RECORDS, Store
from freqbench.results.nested import nest
from freqbench.results.schema import COMMIT
from freqbench.results.status import facts
from freqbench.results.status import tables as shown_tables
from freqbench.results.writer import MAX_RECORDS, commit

DATASETS = ("synapse", "acdc")
MODELS = ("unet", "unetr", "swin_unetr", "segresnet", "unetr_pp")
SEEDS = 10
CASES = 40
RECORDS_TOTAL = 1_000_000
RUN_ID = "20260101-000000-abcdef"
START_US = 1_767_225_600_000_000
METRICS = "dsc,hd95,ssim,psnr,lpips"
MOST_ABOVE_MIB = 1024
REPORT_S = 15
REPORT_MIB = 2048
WHOLE_S = 60
WHOLE_MIB = 4096
TABLES = ("vafa_table5", "sa2_synapse", "transfer", "organs", "budget", "cost", "leaderboard")

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


def settings() -> list[dict[str, Any]]:
    """Fifty attacks with parameters: ten budgets of five attacks."""
    kinds: dict[str, tuple[str, str, Callable[[int], float], dict[str, Any]]] = {
        "fgsm": ("linf", "eps", lambda number: number / 255, {}),
        "pgd": ("linf", "eps", lambda number: number / 255, {"steps": 20, "step_size": 0.01}),
    }
    kinds |= {
        "bim": ("linf", "eps", lambda number: number / 255, {"steps": 20, "step_size": 0.01}),
        "vafa": ("dct-quantization", "q_max", lambda number: 10.0 * number, {"q_min": 5.0, "steps": 20, "block": 32}),
    }
    kinds |= {
        "sa2": ("dct-scaling", "rho", lambda number: number / 10, {"steps": 10, "step_size": 0.1, "block": 16}),
    }
    made = []
    for number, (attack, (threat, name, budget, params)) in itertools.product(range(1, 11), kinds.items()):
        setting = {"attack": attack, "threat_model": threat, "budget_name": name, "budget": budget(number)}
        setting["variant"] = "paper" if threat == "linf" else "released"
        setting["params"] = json.dumps({name: budget(number), **params, "targeted": False}, sort_keys=True)
        made.append(setting)
    return made


def cells() -> list[dict[str, Any]]:
    """Values that the records of a cell share, with the target."""
    rows = []
    axes = itertools.product(DATASETS, MODELS, MODELS, settings(), range(SEEDS))
    for number, (dataset, source, target, setting, seed) in enumerate(axes):
        models = {"source_model": source, "source_model_id": f"{source:0>16}"[:16]}
        models |= {"target_model": target, "target_model_id": f"{target:0>16}"[:16]}
        texts = {"cell_id": f"{number * 2654435761 % 2**64:016x}", "dataset": dataset, "seed": seed}
        rows.append({**models, **texts, **setting})
    return rows


def rows(first: int, some: list[dict[str, Any]], run_id: str, classes: int) -> pa.Table:
    """The rows of some cells, of which `first` come before."""
    rng = np.random.default_rng(first)
    count = len(some) * CASES
    cases = np.tile(np.arange(CASES), len(some)).tolist()
    known: dict[str, Any] = {name: pa.array([cell[name] for cell in some for _ in range(CASES)]) for name in some[0]}
    finished = pa.array(START_US + 1000 * np.arange(first, first + count))
    known["case_id"] = pa.array([f"case{case:04d}" for case in cases])
    known["case_key"] = pa.array([f"{case * 40503:016x}" for case in cases])
    known["patient_id"] = pa.array([f"patient{case // 2:04d}" for case in cases])
    known["finished_at"] = finished.cast(pa.timestamp("us", tz="UTC"))
    same = {"run_id": run_id, "status": "ok", "metrics": METRICS, "precision": "fp32", "window_batch": 4, "threads": 8}
    known |= {name: pa.array([value] * count) for name, value in same.items()}
    empty = ("error", "null_reasons", "source_defence", "target_defence")
    known |= {name: pa.nulls(count, pa.string()) for name in empty}
    of_record = pa.array(np.repeat(np.arange(count), classes))
    of_class = {name: known[name].take(of_record) for name in COMMIT}
    of_class["class_index"] = pa.array(np.tile(np.arange(classes), count))
    of_class["class_name"] = pa.array([f"organ {number}" for number in range(classes)] * count)
    lines = table(CLASS_RECORDS, count * classes, of_class, rng)
    return nest(table(RECORDS, count, known, rng), lines, [classes] * count)


# What the processes do. Each prints `seconds` of its own work, imports left out.
def fill(root: str, classes: int = 6) -> float:
    grid = cells()
    seconds = 0.0
    per_file = MAX_RECORDS // CASES
    for number, first in enumerate(range(0, len(grid), per_file)):
        made = rows(CASES * first, grid[first : first + per_file], RUN_ID, classes)
        started = time.perf_counter()
        commit(root, f"{RUN_ID}-{number:06d}.parquet", made)
        seconds += time.perf_counter() - started
    keys = [f"{case * 40503:016x}" for case in range(CASES)]
    index = [{"cell_id": c["cell_id"], "dataset": c["dataset"], "targets": [c["target_model_id"]]} for c in grid]
    Store(root).write_job({"spec": {}, "index": {"cells": index, "cases": dict.fromkeys(DATASETS, keys)}})
    return seconds


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def idle(root: str) -> float:
    Store(root).run_ids()
    return 0.0


def covered(root: str) -> float:
    keys: dict[Any, Any] = {}
    seconds = timed(lambda: keys.update(Store(root).covered()))
    assert len(keys) == RECORDS_TOTAL
    assert set(keys.values()) == {frozenset(METRICS.split(","))}
    return seconds


def status(root: str) -> float:
    shown: list[Any] = []
    seconds = timed(lambda: shown.extend(shown_tables(facts(root))))
    assert str(shown[0].title).endswith(f": {RECORDS_TOTAL} of {RECORDS_TOTAL} records")
    return seconds


def compact(root: str) -> float:
    return timed(Store(root).compact)


def few_more(root: str) -> float:
    """Two runs of few rows end: their rows are merged, and nothing else."""
    for number in range(2):
        commit(root, f"more{number}-000000.parquet", rows(RECORDS_TOTAL + number, cells()[-1:], f"more{number}", 6))
    return compact(root)


WORKS = {work.__name__: work for work in (fill, idle, covered, status, compact, few_more)}


@pytest.mark.parametrize("where", ["folder", "S3"])
def test_a_million_records(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory is what a process takes beyond one that only imports and connects."""
    (tmp_path / "s3").mkdir()
    server = S3(tmp_path / "s3") if where == "S3" else None
    root = f"s3://{BUCKET}/scale" if server else str(tmp_path / "out")
    lines = [f"{'':<30} | seconds | rows/s  | core s, imports too | MiB above an idle process"]
    seconds = {}
    if server:
        server.start()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
    try:
        base = Measured(tmp_path, __file__, "idle", root).mib
        for work in ("fill", "covered", "status", "compact", "covered", "status", "few_more"):
            measured = Measured(tmp_path, __file__, work, root)
            (spent,) = re.findall(r"seconds (\S+)", measured.said)
            seconds[work] = float(spent)
            above = measured.mib - base
            rate = RECORDS_TOTAL / seconds[work]
            lines.append(f"{work:<30} | {seconds[work]:7.1f} | {rate:7.0f} | {measured.core_seconds:19.1f} | {above}")
            assert above < MOST_ABOVE_MIB, lines[-1]
    finally:
        if server:
            server.kill()
        shutil.rmtree(tmp_path / ("s3" if server else "out"), ignore_errors=True)
    with capsys.disabled():
        print(f"\n{RECORDS_TOTAL} records x 6 classes, {where}; 1-minute load {os.getloadavg()[0]:.1f}")
        print("\n".join(lines))
    assert seconds["covered"] < 60
    assert seconds["few_more"] < 60


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with three classes, compacted."""
    root = str(tmp_path_factory.mktemp("scale") / "out")
    fill(root, classes=3)
    Store(root).compact()
    return root


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_a_million_records(name: str, large_store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each a command of its own, its start included."""
    report = ("-m", "freqbench", "report", large_store, "--table", name, "--format", "md")
    measured = Measured(Path(large_store).parent, *report)
    with capsys.disabled():
        print(f"\nreport --table {name}: {measured}; 1-minute load {os.getloadavg()[0]:.1f}")
    assert measured.seconds < REPORT_S
    assert measured.mib < REPORT_MIB


def test_the_whole_report_of_a_million_records(large_store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds are those of a core, as the report has one thread."""
    measured = Measured(Path(large_store).parent, "-m", "freqbench", "report", large_store, "--format", "md")
    with capsys.disabled():
        print(f"\nreport: {measured}; 1-minute load {os.getloadavg()[0]:.1f}")
    assert measured.core_seconds < WHOLE_S
    assert measured.mib < WHOLE_MIB


if __name__ == "__main__":
    print("seconds", WORKS[sys.argv[1]](sys.argv[2]))
