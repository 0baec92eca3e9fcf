"""Saved volumes: files as documented, and scores from them equal to scores from the run itself."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from engine.cases import CUBE, stored, units_of
from exchange import elsewhere
from rich.console import Console
from tiny_job import execute, expanded, job, noted, rows, small

from freqbench import metrics
from freqbench.core.errors import UserError
from freqbench.engine import run, saved_volumes
from freqbench.engine.run import Summary
from freqbench.job.grid import further_targets
from freqbench.results import Store, index_keys

ONE = {
    "attacks": [{"name": "gn", "std": ["8/255", 0.1]}],
    "metrics": ["dsc", "psnr"],
    "save_adversarial": "nifti",
    "resources": {"workers": 1, "threads": 1},  # so that `rescore`, which takes Ray where it pays, does not
}
BOTH = small(**ONE, models=job()["models"], targets="source", datasets=[CUBE])
FILES = {"adversarial", "clean", "label", "prediction_clean-a", "prediction_adversarial-a"}
WRITTEN = {"attack.json", *(f"{name}.nii.gz" for name in FILES)}


def saved(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob("volumes/*/*/attack.json"))


def score(content: dict[str, Any], out: Path, names: list[str], said: io.StringIO | None = None) -> Summary:
    return run.rescore(further_targets(expanded(content)[0], names), str(out), Console(file=said or io.StringIO()))


def test_named_attacks_volumes_alone_are_saved(tmp_path: Path) -> None:
    """The rows of the others need no volume to count as done; those of an attack that is named later are made anew."""
    both = small(**ONE, save_only=["gn"])
    both["attacks"] = [{"name": "gn", "std": 0.1}, {"name": "fgsm", "eps": 0.01}]
    assert execute(both, tmp_path).num_new == 2
    assert [path.parent.name.split("-")[0] for path in saved(tmp_path)] == ["gn"]
    assert {path.name for path in saved(tmp_path)[0].iterdir()} == WRITTEN
    assert (len([*tmp_path.glob("volumes/*")]), execute(both, tmp_path).num_new) == (1, 0)
    assert execute({**both, "save_only": ["gn", "fgsm"]}, tmp_path).num_new == 1


def test_saved_volumes_have_grid_units_and_the_rows_scores(tmp_path: Path) -> None:
    execute(small(**ONE), tmp_path)
    _, grid = expanded(small(**ONE))
    case = grid.cells[0].dataset.load(grid.cases["phantom"][0])
    by_cell = {row["cell_id"]: row for row in stored(tmp_path)}
    assert len(saved(tmp_path)) == 2
    for folder in saved(tmp_path):
        assert {path.name for path in folder.iterdir()} == WRITTEN
        row = by_cell[folder.parent.name.rsplit("-", 1)[1]]
        volume = {name: elsewhere.voxels_of(folder / f"{name}.nii.gz") for name in FILES}
        assert np.array_equal(volume["clean"], case.image[0].numpy())
        assert np.array_equal(volume["label"], case.label[0].numpy())
        assert row["psnr"] == metrics.psnr(volume["clean"], volume["adversarial"])
        assert row["dsc"] == np.nanmean(metrics.dice(volume["prediction_adversarial-a"], volume["label"], 6))
        assert row["dsc_clean"] == np.nanmean(metrics.dice(volume["prediction_clean-a"], volume["label"], 6))
        assert row["voxel_success"] == (volume["prediction_adversarial-a"] != volume["prediction_clean-a"]).mean()
    for name in FILES:
        image = nibabel.load(saved(tmp_path)[0] / f"{name}.nii.gz")
        assert np.allclose(image.affine, case.affine, rtol=1e-6)  # float32 in the header
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.get_data_dtype() == (np.float32 if name in ("adversarial", "clean") else np.uint8)
        assert image.shape == (24, 20, 16)


def test_targets_that_were_scored_stay_when_the_job_runs_again(tmp_path: Path) -> None:
    """Its index, from which reports and status are made, keeps the keys that `score` added."""
    execute(BOTH, tmp_path)
    score(BOTH, tmp_path, ["b"])
    scored = index_keys(Store(str(tmp_path)).job()["index"])
    assert (execute(BOTH, tmp_path).num_new, index_keys(Store(str(tmp_path)).job()["index"])) == (0, scored)
    assert (len(scored), score(BOTH, tmp_path, ["b"]).num_new) == (len(Store(str(tmp_path)).records()), 0)


def test_units_without_volume_are_left_out_and_reported(tmp_path: Path) -> None:
    execute(BOTH, tmp_path)
    (saved(tmp_path)[0] / "attack.json").unlink()
    said = io.StringIO()
    assert score(BOTH, tmp_path, ["b"], said).num_new == 1
    assert "1 record of volumes that were not saved: left out" in said.getvalue()
    for folder in saved(tmp_path):
        (folder / "attack.json").unlink()
    with pytest.raises(UserError, match=r"expected saved volumes of this job, found none: run it with save_adversar"):
        score(BOTH, tmp_path, ["b"])


def test_volumes_asked_for_after_a_run_are_made(tmp_path: Path) -> None:
    execute(small(**{**ONE, "save_adversarial": "none"}), tmp_path)
    before = rows(tmp_path)
    assert not (tmp_path / "volumes").exists()
    assert (execute(small(**ONE), tmp_path).num_new, len(saved(tmp_path)), rows(tmp_path)) == (2, 2, before)
    assert execute(small(**ONE), tmp_path).num_new == 0


def test_a_volume_is_whole_before_its_facts_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = noted(monkeypatch, run.storage, "write_atomic", lambda path, data: Path(path).name)
    execute(small(**{**ONE, "attacks": [{"name": "gn", "std": 0.1}]}), tmp_path)
    order = [name for name in written if "nii" in name or name == "attack.json"]
    assert order[:4] == ["adversarial.nii.gz", "clean.nii.gz", "label.nii.gz", "attack.json"]


def test_channels_are_a_fourth_axis_and_come_back(tmp_path: Path) -> None:
    content = small(
        **{**ONE, "attacks": [{"name": "gn", "std": 0.1}]}, datasets=[elsewhere.folder(tmp_path / "data", channels=2)]
    )
    execute(content, tmp_path)
    (unit,) = units_of(content)
    prepared = unit.cell.dataset.load(unit.ref)
    written = elsewhere.voxels_of(saved(tmp_path)[0] / "clean.nii.gz")
    assert written.shape == (*prepared.image.shape[1:], 2)
    assert np.array_equal(np.moveaxis(written, -1, 0), prepared.image.numpy())
    attacked, _ = saved_volumes.read(str(tmp_path / "volumes"), unit.cell, unit.ref)
    (row,) = stored(tmp_path)
    assert attacked.adversarial.shape == prepared.image.shape
    facts = json.loads((saved(tmp_path)[0] / "attack.json").read_text())
    assert facts["native_ranges"] == [list(each) for each in prepared.native_ranges]
    assert facts["unit"] == ""  # percentiles, as of MR
    bent = replace(prepared, native_ranges=((math.nan, math.nan), (0.0, 5.0)))
    saved_volumes.save(str(tmp_path / "bent"), unit.cell, bent, attacked, None)
    (path,) = tmp_path.glob("bent/*/*/attack.json")
    assert json.loads(path.read_text())["native_ranges"] == [None, [0, 5]]
    change = (attacked.adversarial - prepared.image).double()
    assert row["l2"] == pytest.approx(float(change.square().sum().sqrt()), rel=1e-6)
