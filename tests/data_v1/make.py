"""Makes `store/`, a result store as schema version 1 wrote it: `python tests/data_v1/make.py`.

It is committed so that every later version is tested against files that it did not write. Do not make it again after
the schema has changed: the next version gets a folder of its own.
"""

import shutil
from datetime import UTC, datetime, timedelta
from math import nan
from pathlib import Path
from typing import Any

from freqbench.results import CLASS_RECORDS, RECORDS, SCHEMA_VERSION, Store

FOLDER = Path(__file__).parent / "store"
START = datetime(2026, 1, 1, 12, tzinfo=UTC)

UNIT: dict[str, Any] = {
    "target_model_id": "feedfacefeedface",
    "source_model_id": "feedfacefeedface",
    "dataset": "phantom",
    "patient_id": "patient0",
    "source_model": "unet",
    "target_model": "unet",
    "attack": "pgd",
    "variant": "released",
    "params": '{"eps":0.03137254901960784,"random_start":true,"step_size":0.01,"steps":20,"targeted":false}',
    "budget_name": "eps",
    "budget": 8 / 255,
    "threat_model": "linf",
    "seed": 0,
    "precision": "fp32",
    "compile": False,
    "num_classes": 3,
}
SCORES: dict[str, Any] = {
    "status": "ok",
    "metrics": "dsc,hd95,lpips,ssim",
    "dsc": 0.25,
    "dsc_clean": 0.875,
    "dsc_foreground": 0.125,
    "dsc_foreground_clean": 0.8125,
    "hd95": 12.5,
    "hd95_clean": 1.5,
    "ssim": 0.75,
    "linf": 8 / 255,
    "hd95_undefined_classes": 0,
    "num_windows": 8,
}


def record(minute: int, run_id: str, cell_id: str, case: int, **values: Any) -> dict[str, Any]:
    """A complete row."""
    row = dict.fromkeys(column.name for column in RECORDS) | UNIT
    row |= {"cell_id": cell_id, "case_key": f"{case:016x}", "case_id": f"case{case}", "run_id": run_id}
    return row | {"finished_at": START + timedelta(minutes=minute), "device": "cpu", "threads": 1} | values


def classes(of: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of three classes, the last of them undefined."""
    shared = {name: of[name] for name in ("cell_id", "case_key", "target_model_id", "run_id", "finished_at")}
    row = dict.fromkeys(column.name for column in CLASS_RECORDS) | shared
    return [
        row | {"class_index": index, "class_name": name, "label_voxels": voxels, "dsc": dsc, "hd95": 12.5 * dsc}
        for index, (name, voxels, dsc) in enumerate([("background", 900, 0.5), ("ball", 100, 0.0), ("rod", 0, nan)])
    ]


def main() -> None:
    """Two runs: an ok row, a null with its reason, NaN, a failure that the second run mends, one that stays."""
    if SCHEMA_VERSION != 1:
        raise SystemExit("this store is of schema version 1")
    shutil.rmtree(FOLDER, ignore_errors=True)
    store = Store(str(FOLDER))
    failure = {"status": "failed", "error": "out of memory at window batch 1"}
    reason = '{"lpips_similarity":"no LPIPS weights found"}'
    runs = {
        "run-a": [
            record(0, "run-a", "aaaaaaaaaaaaaaaa", 0, **SCORES, null_reasons=reason),
            record(1, "run-a", "aaaaaaaaaaaaaaaa", 1, **(SCORES | {"hd95": nan, "hd95_undefined_classes": 3})),
            record(2, "run-a", "bbbbbbbbbbbbbbbb", 0, **failure),
            record(3, "run-a", "bbbbbbbbbbbbbbbb", 1, **failure),
        ],
        "run-b": [
            record(4, "run-b", "aaaaaaaaaaaaaaaa", 0, **failure),
            record(5, "run-b", "bbbbbbbbbbbbbbbb", 0, **(SCORES | {"dsc": 0.5})),
        ],
    }
    for run_id, records in runs.items():
        with store.writer(run_id) as writer:
            writer.add(records, [row for record in records if record["status"] == "ok" for row in classes(record)])
        store.write_run(run_id, {"status": "done"})
    store.write_job({"name": "data-v1"})


if __name__ == "__main__":
    main()
