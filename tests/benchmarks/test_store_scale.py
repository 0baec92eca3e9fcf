"""What a store of 1,000,000 records costs: `pytest -m benchmark -s tests/benchmarks/test_store_scale.py`.

Each record has six classes, and every column of both tables a value, most of them random: wider than real ones, and
harder to compress. They are made as Arrow tables and committed as a run commits them, in files of 5,000 records, to a
folder and to S3 over HTTP on loopback. What reads and merges them are processes of their own, whose memory is theirs.

What S3 takes here is a test server's time, in one Python process on the same cores: an upper bound.
"""

import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_up import table
from measured import Measured
from s3_server import BUCKET, S3

from freqbench.results import CLASS_RECORDS, RECORDS, Store
from freqbench.results.schema import COMMIT
from freqbench.results.writer import MAX_RECORDS, commit

RECORDS_TOTAL = 1_000_000
CASES = 100
CLASSES = 6
RUN_ID = "20260101-000000-abcdef"
START_US = 1_767_225_600_000_000
METRICS = "dsc,hd95,ssim,psnr,lpips"
MOST_ABOVE_MIB = 1024

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


def tables(first: int, count: int, run_id: str, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """`count` records of a grid from its `first` on, cell by cell, and their classes."""
    cells, cases = np.divmod(np.arange(first, first + count), CASES)
    params = '{{"eps": {}, "random_start": true, "step_size": 0.01, "steps": 20, "targeted": false}}'
    known = {
        "cell_id": pa.array([f"{cell * 2654435761 % 2**64:016x}" for cell in cells.tolist()]),
        "case_key": pa.array([f"{case * 40503 % 2**64:016x}" for case in cases.tolist()]),
        "case_id": pa.array([f"case{case:04d}" for case in cases.tolist()]),
        "params": pa.array([params.format(cell / 20000) for cell in cells.tolist()]),
        "finished_at": pa.array(START_US + 1000 * np.arange(first, first + count)).cast(pa.timestamp("us", tz="UTC")),
        "run_id": pa.array([run_id] * count),
        "status": pa.array(["ok"] * count),
        "metrics": pa.array([METRICS] * count),
        "error": pa.nulls(count, pa.string()),
        "null_reasons": pa.nulls(count, pa.string()),
    }
    known["target_model_id"] = known["source_model_id"] = pa.array(["feedfacefeedface"] * count)
    records = table(RECORDS, count, known, rng)
    of_record = pa.array(np.repeat(np.arange(count), CLASSES))
    of_class = {name: known[name].take(of_record) for name in COMMIT}
    of_class["class_index"] = pa.array(np.tile(np.arange(CLASSES), count))
    of_class["class_name"] = pa.array([f"organ {number}" for number in range(CLASSES)] * count)
    return records, table(CLASS_RECORDS, count * CLASSES, of_class, rng)


def job() -> dict[str, Any]:
    """A job whose grid is all that `tables` makes."""
    cases = {"made-up": [f"{case * 40503 % 2**64:016x}" for case in range(CASES)]}
    ids = [f"{cell * 2654435761 % 2**64:016x}" for cell in range(RECORDS_TOTAL // CASES)]
    cells = [{"cell_id": cell_id, "dataset": "made-up", "targets": ["feedfacefeedface"]} for cell_id in ids]
    return {"spec": {}, "index": {"cells": cells, "cases": cases}}


# What the processes do. Each prints `seconds` of its own work, imports left out.


def fill(root: str) -> None:
    rng, seconds = np.random.default_rng(0), 0.0
    for number, first in enumerate(range(0, RECORDS_TOTAL, MAX_RECORDS)):
        records, classes = tables(first, MAX_RECORDS, RUN_ID, rng)
        started = time.perf_counter()
        commit(root, f"{RUN_ID}-{number:06d}.parquet", records, classes)
        seconds += time.perf_counter() - started
    Store(root).write_job(job())
    print("seconds", seconds)


def idle(root: str) -> None:
    Store(root).run_ids()
    print("seconds", 0.0)


def covered(root: str) -> None:
    started = time.perf_counter()
    keys = Store(root).covered()
    print("seconds", time.perf_counter() - started)
    assert len(keys) == RECORDS_TOTAL
    assert set(keys.values()) == {frozenset(METRICS.split(","))}


def status(root: str) -> None:
    from freqbench.results.status import of_store

    started = time.perf_counter()
    progress, *_ = of_store(root)
    print("seconds", time.perf_counter() - started)
    assert str(progress.title).endswith(f": {RECORDS_TOTAL} of {RECORDS_TOTAL} records")


def compact(root: str) -> None:
    started = time.perf_counter()
    Store(root).compact()
    print("seconds", time.perf_counter() - started)


def ten_more(root: str) -> None:
    """Two runs of ten rows each end: their rows are merged, and nothing else."""
    for number in range(2):
        run_id = f"more{number}"
        rows = tables(RECORDS_TOTAL - 10, 10, run_id, np.random.default_rng(number))
        commit(root, f"{run_id}-000000.parquet", *rows)
    compact(root)


WORKS = {work.__name__: work for work in (fill, idle, covered, status, compact, ten_more)}


class Table:
    """What was measured, a line a process; the memory above that of a process that only imports and connects."""

    def __init__(self, folder: Path, root: str) -> None:
        self._folder, self._root = folder, root
        self._idle = Measured(folder, __file__, "idle", root).mib
        self.lines = [f"{'':<30} | seconds | rows/s  | core s, imports too | MiB above an idle process ({self._idle})"]

    def add(self, name: str, work: str) -> float:
        """Carry it out in a process of its own; returns its seconds."""
        measured = Measured(self._folder, __file__, work, self._root)
        found = re.search(r"seconds (\S+)", measured.said)
        assert found, measured.said
        seconds, above = float(found[1]), measured.mib - self._idle
        rate, core = RECORDS_TOTAL / seconds, measured.core_seconds
        self.lines.append(f"{name:<30} | {seconds:7.1f} | {rate:7.0f} | {core:19.1f} | {above}")
        assert above < MOST_ABOVE_MIB, self.lines[-1]
        return seconds


@pytest.mark.parametrize("where", ["folder", "S3"])
def test_a_million_records(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s3").mkdir()
    server = S3(tmp_path / "s3") if where == "S3" else None
    root = f"s3://{BUCKET}/scale" if server else str(tmp_path / "out")
    if server:
        server.start()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
    try:
        measured = Table(tmp_path, root)
        measured.add("write, files of 5,000", "fill")
        resume = measured.add("keys, 200 files", "covered")
        measured.add("status, 200 files", "status")
        measured.add("compact", "compact")
        measured.add("keys, compacted", "covered")
        measured.add("status, compacted", "status")
        ended = measured.add("compact after ten new rows", "ten_more")
    finally:
        if server:
            server.kill()
        shutil.rmtree(tmp_path / ("s3" if server else "out"), ignore_errors=True)
    with capsys.disabled():
        print(f"\n{RECORDS_TOTAL} records x {CLASSES} classes, {where}; 1-minute load {os.getloadavg()[0]:.1f}")
        print("\n".join(measured.lines))
    assert resume < 60
    assert ended < 60


if __name__ == "__main__":
    WORKS[sys.argv[1]](sys.argv[2])
