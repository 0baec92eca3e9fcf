"""Volumes that others made: brought in by name, scored on the job's targets, told apart by their content."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from exchange.elsewhere import put, voxels_of
from rich.console import Console
from tiny_job import ARGS, execute, expanded, job, rows

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.engine import run
from freqbench.exchange import adversarial_volumes, export
from freqbench.exchange.adversarial_volumes import Imported
from freqbench.job.grid import further_targets
from freqbench.reporting.report import report
from freqbench.results import Store, index_keys

JOB = job(attacks=[{"name": "gn", "std": 0.1}], metrics=["dsc", "psnr"], resources={"workers": 1, "threads": 1})


def prepared(number: int = 0) -> npt.NDArray[np.float32]:
    _, grid = expanded(JOB)
    return grid.cells[0].dataset.load(grid.cases["phantom"][number]).image[0].numpy()


def released(shift: float = 8 / 255) -> npt.NDArray[np.uint8]:
    """A volume as the papers' code saves it: 255 times it, cut off."""
    return (255 * np.clip(prepared() + np.float32(shift), 0, 1)).astype(np.uint8)


def bring(place: Path, source: str = "a", content: dict[str, Any] | None = None) -> tuple[run.Summary, str]:
    grid, said = expanded(content or JOB)[1], io.StringIO()
    volumes, out = str(place / "imagesTsAdv"), str(place / "out")
    return adversarial_volumes.bring_in(
        grid, out, volumes, source, "vafa-released", Console(file=said)
    ), said.getvalue()


def records(place: Path) -> list[dict[str, Any]]:
    return Store(str(place / "out")).records().to_pylist()


def test_uint8_volumes_are_scored_on_all_targets(tmp_path: Path) -> None:
    put(tmp_path / "imagesTsAdv" / "adv_phantom_2000.nii.gz", released())
    summary, said = bring(tmp_path)
    assert (summary.num_new, summary.num_failed) == (2, 0)
    assert "1 cases without a file are left out: phantom_2001\n" in said
    error = np.mean((prepared().astype(np.float64) - released() / 255) ** 2)
    for row in records(tmp_path):
        assert row["psnr"] == pytest.approx(10 * np.log10(1 / error), abs=1e-3)
        assert (row["attack"], row["threat_model"], row["budget"]) == ("imported", "none", None)
        assert row["num_forwards"] is row["num_windows"] is row["attack_seconds"] is None
        assert (row["source_model"], row["case_id"], row["status"]) == ("a", "phantom_2000", "ok")
    assert {row["target_model"] for row in records(tmp_path)} == {"a", "b"}
    store = Store(str(tmp_path / "out"))
    assert index_keys(store.job()["index"]) == set(rows(tmp_path / "out"))
    assert "imported label=vafa-released " in report([store], index_keys(store.job()["index"]))
    assert bring(tmp_path)[0].num_new == 0


def test_floats_score_as_the_run_that_saved_them(tmp_path: Path) -> None:
    execute({**JOB, "models": JOB["models"][:1], "save_adversarial": "nifti"}, tmp_path / "run")
    for number, path in enumerate(sorted((tmp_path / "run").glob("volumes/gn-a-*/*/adversarial.nii.gz"))):
        put(tmp_path / "imagesTsAdv" / f"phantom_{2000 + number}.nii.gz", voxels_of(path))
    bring(tmp_path, content={**JOB, "models": JOB["models"][:1]})
    ran, scored = (
        {(row["case_id"], row["target_model"]): (row["dsc"], row["dsc_clean"], row["psnr"]) for row in rows}
        for rows in (Store(str(tmp_path / "run")).records().to_pylist(), records(tmp_path))
    )
    assert ran == scored


def test_bytes_that_a_slope_turns_into_floats_are_floats(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(released() / np.float32(255), np.eye(4))
    image.set_data_dtype(np.uint8)
    (tmp_path / "imagesTsAdv").mkdir()
    nibabel.save(image, tmp_path / "imagesTsAdv" / "adv_phantom_2000.nii.gz")
    bring(tmp_path)
    assert {round(255 * row["linf"]) for row in records(tmp_path)} == {8}


def test_other_volumes_are_another_cell_and_all_stay_in_report(tmp_path: Path) -> None:
    path = tmp_path / "imagesTsAdv" / "adv_phantom_2000.nii.gz"
    for shift in (8 / 255, 4 / 255):
        put(path, released(shift))
        bring(tmp_path)
    execute(JOB, tmp_path / "out")
    keys = index_keys(Store(str(tmp_path / "out")).job()["index"])
    assert (keys, len(keys)) == (set(rows(tmp_path / "out")), 2 + 2 + 2 * 2 * 2)
    assert len({row["cell_id"] for row in records(tmp_path) if row["attack"] == "imported"}) == 2


def test_imported_volumes_are_exported_and_scored_on(tmp_path: Path) -> None:
    put(tmp_path / "imagesTsAdv" / "adv_phantom_2000.nii.gz", released())
    only = {**JOB, "targets": "source"}
    bring(tmp_path, content=only)
    out, grid = str(tmp_path / "out"), further_targets(expanded(only)[0], ["b"])
    summary = run.rescore(adversarial_volumes.join_imported(grid, out), out, Console(file=io.StringIO()))
    assert (summary.num_new, len(records(tmp_path))) == (1, 2)
    assert index_keys(Store(out).job()["index"]) == set(rows(out))
    _, grid = expanded(only)
    written = export.export(
        adversarial_volumes.join_imported(grid, out), out, str(tmp_path / "to"), Console(file=io.StringIO())
    )
    assert [each.attack for each in written] == [None, "imported"]


@pytest.mark.parametrize(
    ("spoil", "source", "expected"),
    [
        (
            lambda voxels: voxels[:-1],
            "a",
            r"2001.nii.gz: expected the shape of .*\(1, 24, 20, 16\) .*\(1, 23, 20, 16\)",
        ),
        (lambda voxels: voxels.astype(np.float32), "a", r"expected uint8 0..255 or floats in \[0, 1\], got 8 to 255"),
        (np.asarray, "c", "--source: unknown model 'c'. Known: a, b"),
        (None, "a", "such as adv_phantom_2000.nii.gz, got adv_img0035.nii.gz: rename them"),
    ],
)
def test_wrong_volume_or_source_is_refused_unstored(
    tmp_path: Path, spoil: Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]] | None, source: str, expected: str
) -> None:
    folder = tmp_path / "imagesTsAdv"
    put(folder / ("adv_phantom_2000.nii.gz" if spoil else "adv_img0035.nii.gz"), released())
    if spoil:
        put(folder / "adv_phantom_2001.nii.gz", spoil(released()))
    with pytest.raises(UserError, match=expected):
        bring(tmp_path, source)
    assert not (tmp_path / "out").exists()


def test_an_import_makes_no_volumes() -> None:
    net = models.build("unet", 6, (16, 16, 16), ARGS, seed=0)
    volume = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="vafa: expected the volumes that were brought in, found none"):
        Imported(label="vafa", content="0")(net, volume, torch.zeros_like(volume, dtype=torch.int64))
