"""What a report over 1,000,000 records costs: `pytest -m benchmark -s tests/benchmarks/test_report_scale.py`.

Two datasets x 5 sources x 5 targets x 50 attack settings x 10 seeds x 40 cases of 20 patients, every column filled;
each command is a process of its own, its start included.
"""

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_up import table
from measured import Measured

from freqbench.results import CLASS_RECORDS, RECORDS, Store
from freqbench.results.schema import COMMIT
from freqbench.results.writer import MAX_RECORDS, commit

DATASETS = ("synapse", "acdc")
MODELS = ("unet", "unetr", "swin_unetr", "segresnet", "unetr_pp")
SEEDS, CASES, CLASSES = 10, 40, 3
RUN_ID = "20260101-000000-abcdef"
SECONDS, MIB = 15, 2048
TABLES = ("vafa_table5", "sa2_synapse", "transfer", "organs", "budget", "cost", "leaderboard")

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


def settings() -> list[dict[str, Any]]:
    """Fifty attacks with parameters: budgets of five attacks."""
    found = []
    for number in range(1, 11):
        eps, common = number / 255, {"targeted": False}
        voxel = {"threat_model": "linf", "budget_name": "eps", "budget": eps, "variant": "paper"}
        found.append({"attack": "fgsm", **voxel, "params": {"eps": eps, **common}})
        for attack in ("pgd", "bim"):
            params = {"eps": eps, "steps": 20, "step_size": 0.01, **common}
            found.append({"attack": attack, **voxel, "params": params})
        quantised = {"threat_model": "dct-quantization", "budget_name": "q_max", "budget": 10.0 * number}
        params = {"q_max": 10.0 * number, "q_min": 5.0, "steps": 20, "block": 32, **common}
        found.append({"attack": "vafa", **quantised, "variant": "released", "params": params})
        scaled = {"threat_model": "dct-scaling", "budget_name": "rho", "budget": number / 10}
        params = {"rho": number / 10, "steps": 10, "step_size": 0.1, "block": 16, **common}
        found.append({"attack": "sa2", **scaled, "variant": "released", "params": params})
    return found


def cells() -> list[dict[str, Any]]:
    """What the records of a cell share, with the target."""
    axes = itertools.product(DATASETS, MODELS, MODELS, settings(), range(SEEDS))
    rows = []
    for number, (dataset, source, target, setting, seed) in enumerate(axes):
        models = {"source_model": source, "source_model_id": f"{source:0>16}"[:16]}
        models |= {"target_model": target, "target_model_id": f"{target:0>16}"[:16]}
        texts = {"cell_id": f"{number * 2654435761 % 2**64:016x}", "dataset": dataset, "seed": seed}
        rows.append({**models, **texts, **setting, "params": json.dumps(setting["params"], sort_keys=True)})
    return rows


def fill(root: str) -> None:
    """The whole store, file by file."""
    rng, grid = np.random.default_rng(0), cells()
    per_file = MAX_RECORDS // CASES
    for number, first in enumerate(range(0, len(grid), per_file)):
        rows = [{**cell, "case": case} for cell in grid[first : first + per_file] for case in range(CASES)]
        known: dict[str, Any] = {name: pa.array([row[name] for row in rows]) for name in rows[0] if name != "case"}
        known["case_id"] = pa.array([f"case{row['case']:04d}" for row in rows])
        known["case_key"] = pa.array([f"{row['case'] * 40503:016x}" for row in rows])
        known["patient_id"] = pa.array([f"patient{row['case'] // 2:04d}" for row in rows])
        count = len(rows)
        times = 1_767_225_600_000_000 + 1000 * np.arange(number * MAX_RECORDS, number * MAX_RECORDS + count)
        known["finished_at"] = pa.array(times).cast(pa.timestamp("us", tz="UTC"))
        same = {"run_id": RUN_ID, "status": "ok", "metrics": "dsc,hd95,ssim,psnr,lpips", "precision": "fp32"}
        known |= {name: pa.array([text] * count) for name, text in same.items()}
        known |= {name: pa.nulls(count, pa.string()) for name in ("error", "null_reasons")}
        known |= {name: pa.array([value] * count) for name, value in {"window_batch": 4, "threads": 8}.items()}
        records = table(RECORDS, count, known, rng)
        of_record = pa.array(np.repeat(np.arange(count), CLASSES))
        of_class = {name: known[name].take(of_record) for name in COMMIT}
        of_class["class_index"] = pa.array(np.tile(np.arange(CLASSES), count))
        of_class["class_name"] = pa.array([f"organ {index}" for index in range(CLASSES)] * count)
        commit(root, f"{RUN_ID}-{number:06d}.parquet", records, table(CLASS_RECORDS, count * CLASSES, of_class, rng))
    store = Store(root)
    store.compact()
    keys = sorted({f"{case * 40503:016x}" for case in range(CASES)})
    index = [{"cell_id": c["cell_id"], "dataset": c["dataset"], "targets": [c["target_model_id"]]} for c in grid]
    store.write_job({"spec": {}, "index": {"cells": index, "cases": dict.fromkeys(DATASETS, keys)}})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A million records, compacted."""
    root = str(tmp_path_factory.mktemp("scale") / "out")
    Measured(Path(root).parent, __file__, root)
    return root


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_a_million_records(name: str, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    measured = Measured(Path(store).parent, "-m", "freqbench", "report", store, "--table", name, "--format", "md")
    with capsys.disabled():
        print(f"\nreport --table {name}: {measured}; 1-minute load {os.getloadavg()[0]:.1f}")
    assert measured.seconds < SECONDS
    assert measured.mib < MIB


if __name__ == "__main__":
    started = time.perf_counter()
    fill(sys.argv[1])
    print(time.perf_counter() - started)
