"""A volume in several formats: its rows are equal."""

from pathlib import Path
from typing import Any

import pytest
from data.downloads import LPS, volume
from data.itk_files import put_itk
from tiny_job import execute, small

from freqbench.results import Store

OF_THE_FILE = {"dataset", "case_key", "finished_at"}
MEASURED = ("seconds", "bytes")  # parts of the names of what is measured


@pytest.mark.parametrize("score_on", ["grid", "file"])
def test_rows_of_one_volume_in_three_formats_are_equal(tmp_path: Path, score_on: str) -> None:
    formats = (".nii.gz", ".nrrd", ".mha")
    for suffix in formats:
        for name, voxels in zip(("c", "c_seg"), volume(), strict=True):
            put_itk(tmp_path / suffix[1:] / f"{name}{suffix}", voxels, LPS)
    datasets = [
        {
            **{"name": suffix[1:], "loader": "pairs", "root": str(tmp_path / suffix[1:]), "labels": 3},
            **{"image": f"{{case}}{suffix}", "label": f"{{case}}_seg{suffix}", "spacing": [1.0, 1.5, 2.0]},
        }
        for suffix in formats
    ]
    execute(small(datasets=datasets, score_on=score_on, metrics=["dsc", "hd95", "nsd", "ssim"]), tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    for table in (store.records(), store.class_records()):
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in table.to_pylist():
            compared = {
                k: v for k, v in row.items() if k not in OF_THE_FILE and not any(part in k for part in MEASURED)
            }
            rows.setdefault(row["case_key"], []).append(compared)
        assert len(rows) == 3
        assert len({repr(of_case) for of_case in rows.values()}) == 1  # their NaN, too
