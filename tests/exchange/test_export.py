"""Exported volumes: the file's own grid and unit, and what rounding took, against the files themselves."""

import io
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from exchange.elsewhere import AFFINE, SHAPE, case, folder, voxels_of
from rich.console import Console
from tiny_job import execute, expanded, small

from freqbench.core.errors import UserError
from freqbench.exchange import export

ONE = {"attacks": [{"name": "gn", "std": 0.1}], "metrics": ["dsc"], "save_adversarial": "nifti"}


def exported(content: dict[str, Any], tmp_path: Path) -> tuple[Path, dict[str, dict[str, Any]], str]:
    said = io.StringIO()
    if not (tmp_path / "out").exists():
        execute(content, tmp_path / "out")
    export.export(expanded(content)[1], str(tmp_path / "out"), str(tmp_path / "to"), Console(file=said))
    manifest = json.loads((tmp_path / "to" / "manifest.json").read_text())
    return tmp_path / "to", {each["path"]: each for each in manifest["files"]}, said.getvalue()


def test_the_perturbation_is_in_the_data_s_unit_and_rounded(tmp_path: Path) -> None:
    """The phantom's window is [-175, 250] HU on the grid that it is drawn on: x HU = 425 a - 175 inside of it."""
    content = small(**ONE)
    to, manifest, said = exported(content, tmp_path)
    (saved,) = (tmp_path / "out").glob("volumes/*/*/adversarial.nii.gz")
    name = f"{saved.parent.parent.name}/phantom_2000.nii.gz"
    image = nibabel.load(to / name)
    _, grid = expanded(content)
    native = grid.cells[0].dataset.native(grid.cases["phantom"][0])
    assert image.get_data_dtype() == np.int16
    assert np.allclose(image.affine, native.affine, rtol=1e-6)
    hu = native.image[0].numpy()
    inside = (hu > -175) & (hu < 250)
    assert inside.sum() > 1000
    wanted = 425 * voxels_of(saved).astype(np.float64) - 175
    assert np.abs(voxels_of(to / name) - wanted)[inside].max() <= 0.5 + 1e-3
    assert np.array_equal(voxels_of(to / "clean" / "phantom_2000.nii.gz"), np.rint(hu).astype(np.int16))
    lost, row = np.abs(hu - np.rint(hu)).astype(np.float64), manifest["clean/phantom_2000.nii.gz"]
    assert row["rounding_max"] == pytest.approx(lost.max(), rel=1e-6)
    assert row["rounding_rms"] == pytest.approx(np.sqrt((lost**2).mean()), rel=1e-6)
    assert (row["cell_id"], row["attack"], row["dtype"]) == (None, None, "int16")
    assert manifest[name]["cell_id"] == grid.cells[0].cell_id
    assert manifest[name]["resampling_error"] < 1e-6
    assert json.loads(manifest[name]["params"])["std"] == 0.1
    assert said.startswith("1 adversarial and 1 clean volumes are in ")


@pytest.mark.parametrize("channels", [1, 2])
def test_files_keep_their_grid_and_their_channels(tmp_path: Path, channels: int) -> None:
    """Another orientation and spacing than the attack's; the box that the image is 0 around is not attacked away."""
    to, manifest, _ = exported(small(**ONE, datasets=[folder(tmp_path / "data", channels=channels)]), tmp_path)
    image, _ = case(channels=channels)
    shape = SHAPE if channels == 1 else (*SHAPE, 2)
    paths = [path for path in manifest if path.startswith("gn-a-")]
    assert len(paths) == 1
    for path in ("clean/x.nii.gz", *paths):
        file = nibabel.load(to / path)
        assert (file.shape, file.get_data_dtype()) == (shape, np.int16)
        assert np.array_equal(file.affine, AFFINE)
    assert np.array_equal(voxels_of(to / "clean" / "x.nii.gz"), np.rint(image))
    moved = np.abs(voxels_of(to / paths[0]) - image)
    assert 10 < np.sqrt((moved[3:9, 2:8, 2:6] ** 2).mean()) < 200  # 0.1 of about 1000, smoothed on its way
    assert manifest[paths[0]]["resampling_error"] > 1e-4


def test_a_case_s_name_in_two_folders_is_two_files(tmp_path: Path) -> None:
    """Datasets that differ in files alone share the cell, and so its folder."""
    content = small(**ONE, datasets=[folder(tmp_path / "a"), {**folder(tmp_path / "b", top=900), "name": "other"}])
    to, manifest, _ = exported(content, tmp_path)
    assert len(manifest) == len(list(to.glob("*/*.nii.gz"))) == 4


def test_data_that_int16_would_spoil_stay_floats(tmp_path: Path) -> None:
    to, manifest, _ = exported(small(**ONE, datasets=[folder(tmp_path / "data", top=1.0)]), tmp_path)
    assert {row["dtype"] for row in manifest.values()} == {"float32"}
    assert {row["rounding_max"] for row in manifest.values()} == {0.0}
    assert np.array_equal(voxels_of(to / "clean" / "x.nii.gz"), case(top=1.0)[0])


def test_an_export_without_saved_volumes_is_one_line(tmp_path: Path) -> None:
    content = small(**{**ONE, "save_adversarial": "none"})
    with pytest.raises(UserError, match="expected saved volumes of this job, found none: run it with save_adversarial"):
        exported(content, tmp_path)
