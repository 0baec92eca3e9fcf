"""A volume in several formats: its rows are equal."""

from pathlib import Path
from typing import Any

import pytest
from data.dicom_files import put_seg, put_series
from data.downloads import LPS, volume
from data.itk_files import put_itk
from tiny_job import execute, small

from freqbench.results import Store

pytestmark = pytest.mark.integration

OF_THE_FILE = {"dataset", "case_key", "cell_id", "finished_at"}
MEASURED = ("seconds", "bytes", "releases")  # parts of the names of what is measured, or of the readers


@pytest.mark.parametrize("score_on", ["grid", "file"])
def test_rows_of_one_volume_in_four_formats_are_equal(tmp_path: Path, score_on: str) -> None:
    formats = (".nii.gz", ".nrrd", ".mha")
    image, label = volume()
    image = image.round()
    for suffix in formats:
        for name, voxels in zip(("c", "c_seg"), (image, label), strict=True):
            put_itk(tmp_path / suffix[1:] / f"{name}{suffix}", voxels, LPS)
    datasets = [
        {
            **{"name": suffix[1:], "loader": "pairs", "root": str(tmp_path / suffix[1:]), "labels": 3},
            **{"image": f"{{case}}{suffix}", "label": f"{{case}}_seg{suffix}", "spacing": [1.0, 1.5, 2.0]},
        }
        for suffix in formats
    ]
    series = put_series(tmp_path / "dicom/images/c", image, LPS)
    put_seg(tmp_path / "dicom/labels/c.dcm", series, {f"class {k}": label == k for k in (1, 2)})
    datasets.append(
        {"name": "dicom", "loader": "dicom", "root": str(tmp_path / "dicom"), "labels": 3, "spacing": [1.0, 1.5, 2.0]}
    )
    execute(small(datasets=datasets, score_on=score_on, metrics=["dsc", "hd95", "nsd", "ssim"]), tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    for table in (store.records(), store.class_records()):
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in table.to_pylist():
            compared = {
                k: v for k, v in row.items() if k not in OF_THE_FILE and not any(part in k for part in MEASURED)
            }
            rows.setdefault(row["case_key"], []).append(compared)
        assert len(rows) == 4
        assert len({repr(of_case) for of_case in rows.values()}) == 1  # their NaN, too
