"""Lines of a plan and of `doctor` on the voxels of the first cases."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tiny_job import expanded, small

from freqbench.audit import diagnosis
from freqbench.job import plan

SHAPE = (24, 20, 16)
NAMES = {"0": "background", "1": "organ", "2": "nodule"}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """Three cases: as it should be, HU + 1024, and a nodule of two voxels."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij"))
    body = (place**2).sum(axis=0) < 0.9
    image, label = np.where(body, 40, -1000) + rng.normal(0, 10, SHAPE), np.zeros(SHAPE, np.uint8)
    label[8:16, 6:14, 4:12] = 1
    small_one = label.copy()
    small_one[10:12, 9, 7] = 2
    cases = {"fine": (image, label), "offset": (image + 1024, label), "tiny": (image, small_one)}
    for name, volumes in cases.items():
        for kind, voxels in zip(("imagesTr", "labelsTr"), volumes, strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            kept = voxels.astype(np.float32 if kind == "imagesTr" else np.uint8)
            nibabel.save(nibabel.Nifti1Image(kept, np.eye(4)), tmp_path / kind / f"{name}.nii.gz")
    listed = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in cases]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": NAMES, "validation": listed}))
    window = {"intensity": {"window": [-175, 250]}, "split": "validation", "spacing": [3, 3, 3]}
    return {"name": "d", "loader": "decathlon", "root": str(tmp_path), **window}


def test_a_plan_says_what_is_off_and_what_is_lost(data: dict[str, Any], tmp_path: Path) -> None:
    _, grid = expanded(small(datasets=[data]))
    about = [line for line in plan.outlook(grid, (), None, str(tmp_path / "out")).warnings if " of d: " in line]
    assert [line.partition(":")[0] for line in about] == ["offset of d", "tiny of d"]
    assert "subtract 1024" in about[0]
    assert about[1].endswith("2 of 2 voxels of `nodule` vanish at the spacing 3 x 3 x 3 mm")


def test_plan_reads_no_more_cases_once_its_time_is_over(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHECK_S", 0.0)
    _, grid = expanded(small(datasets=[data]))
    assert [*plan.data_check(plan.first_cases(grid.units()))] == []


def test_doctor_says_it_of_a_folder(data: dict[str, Any]) -> None:
    """The space is that of the job line, which has no window here: the crop of a label beside the body."""
    path, label = Path(data["root"]) / "labelsTr" / "fine.nii.gz", np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), path)
    image = np.full(SHAPE, -1000, np.float32)
    image[6:18, 5:15, 4:12] = np.random.default_rng(1).uniform(0, 100, (12, 10, 8))
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), Path(data["root"]) / "imagesTr" / "fine.nii.gz")
    lines = [line for name, line in diagnosis.diagnose(data["root"], None, None)[0] if name == "data"]
    assert any("1 of 1 voxels of `organ` lie outside the crop" in line for line in lines)
