"""Data that are missing, or an ACDC folder in which something is wrong: a line before anything is attacked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import pytest
from command_line import Bench, done, refused
from data import downloads
from tiny_job import ARGS, ROI, small, write

from freqbench.results import Store

FRAMES = [(f"patient089_frame{frame}", "Tr") for frame in ("01", "10")]
JOB = str(Path(__file__).parents[2] / "jobs" / "papers" / "vafa_table4.yaml")
LABEL = "training/patient089/patient089_frame10_gt.nii.gz"


@pytest.fixture(autouse=True)
def _without_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("FREQBENCH_DATA", "FREQBENCH_CHECKPOINTS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The first two frames of the published validation list, one patient's, as a download has them."""
    folder = tmp_path / "acdc"
    downloads.acdc(folder, "training", FRAMES)
    return folder


def job(root: Path, **keys: Any) -> str:
    dataset = {"name": "acdc", "root": str(root), "split": "validation[0:2]", "size": ROI, **keys}
    model = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI}
    return write(root.parent, small(datasets=[dataset], models=[model], metrics=["dsc"]))


def changed(root: Path, path: str, change: Callable[[Any], Any]) -> None:
    downloads.put(root / path, change(nibabel.load(root / path).get_fdata()).astype("float32"))


def warned(root: Path, bench: Bench, **keys: Any) -> tuple[int, list[str]]:
    out = str(root.parent / f"out{len([*root.parent.iterdir()])}")
    code, *_ = bench("run", job(root, **keys), "--out", out, "--engine", "serial", "--no-page")
    return code, Store(out).runs()[-1]["warnings"]


def test_labels_of_other_classes_are_named_before_attacks(root: Path, bench: Bench) -> None:
    assert warned(root, bench) == (0, [])
    changed(root, LABEL, lambda labels: labels * 200)
    complaint = (
        f"{root / LABEL}: expected labels 0 to 3, got 200 (18 voxels), 400 (18 voxels): name all classes in `labels`, "
        "or say the class of each by `label_map`: {200: 0, 400: 0} makes them background, {other: background} all"
    )
    assert warned(root, bench) == (1, [complaint])
    _, out, _ = bench("doctor", "--data", str(root))
    assert f"problem:         {complaint}" in out.splitlines()
    assert "validation:      1 of 20 cases are complete" in out


def test_volumes_in_0_to_1_under_window_of_ct_are_told_with_both(root: Path, bench: Bench) -> None:
    for case, _ in FRAMES:
        changed(root, f"training/patient089/{case}.nii.gz", lambda voxels: voxels / 150)
    code, warnings = warned(root, bench, intensity="released")
    assert code == 0
    files = [str(root / f"training/patient089/{case}.nii.gz") for case, _ in FRAMES]
    assert [line.partition(": expected ")[0] for line in warnings] == files
    assert "expected intensities on the scale of the window [-175, 250], got 0 to 0.99" in warnings[0]
    assert warned(root, bench, intensity="percentile") == (0, [])


def test_a_case_whose_label_is_empty_is_named_once(root: Path, bench: Bench) -> None:
    changed(root, LABEL, lambda labels: 0 * labels)
    (text,) = warned(root, bench)[1]
    assert text.startswith("patient089_frame10 of acdc: expected a label with a class beside the background, got none")


def test_plan_shows_the_grid_and_what_is_missing(bench: Bench, tmp_path: Path) -> None:
    out = done(bench, "plan", JOB)
    assert "vafa_table4: the grid" in out
    assert "missing: dataset synapse: ${FREQBENCH_DATA}/synapse: expected the environment variable" in out
    assert "missing: model unetr: ${FREQBENCH_CHECKPOINTS}/synapse/unetr/clean.pt" in out
    assert list(tmp_path.iterdir()) == []


def test_plan_counts_on_a_window_that_a_usual_unet_refuses(bench: Bench, tmp_path: Path) -> None:
    onnx = {"name": "net", "arch": "onnx", "checkpoint": "net.onnx", "roi": [9, 8, 7]}
    out = done(bench, "plan", write(tmp_path, small(models=[onnx])))
    assert "missing: model net: expected a checkpoint at net.onnx, found none" in out


def test_run_says_in_one_line_what_is_missing_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    assert "expected the environment variable FREQBENCH_DATA, found none: set it" in refused(bench, "run", JOB)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_dry_data_runs_every_cell(bench: Bench, tmp_path: Path) -> None:
    """Without LPIPS, whose weights may have to be fetched, into a store of its own name."""
    out = done(bench, "run", JOB, "--dry-data", "phantom")
    assert "6 records in" in out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["vafa_table4-dry"]
