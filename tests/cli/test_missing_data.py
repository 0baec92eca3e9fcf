"""The papers' jobs on a machine that has neither their data nor their checkpoints."""

from pathlib import Path

import pytest
from command_line import Bench, refused
from tiny_job import small, write

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture(autouse=True)
def _without_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("FREQBENCH_DATA", "FREQBENCH_CHECKPOINTS"):
        monkeypatch.delenv(variable, raising=False)


def test_plan_shows_the_grid_and_what_is_missing(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench("plan", str(JOBS / "papers/vafa_table4.yaml"))
    assert (code, err) == (0, "")
    assert "vafa_table4: the grid" in out
    assert "missing: dataset synapse: ${FREQBENCH_DATA}/synapse: expected the environment variable" in out
    assert "missing: model unetr: ${FREQBENCH_CHECKPOINTS}/synapse/unetr/clean.pt" in out
    assert list(tmp_path.iterdir()) == []


def test_plan_counts_on_a_window_that_a_usual_unet_refuses(bench: Bench, tmp_path: Path) -> None:
    onnx = {"name": "net", "arch": "onnx", "checkpoint": "net.onnx", "roi": [9, 8, 7]}
    code, out, _ = bench("plan", write(tmp_path, small(models=[onnx])))
    assert (code, "missing: model net: expected a checkpoint at net.onnx, found none" in out) == (0, True)


def test_run_says_in_one_line_what_is_missing_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    err = refused(bench, "run", str(JOBS / "papers/vafa_table4.yaml"))
    assert "expected the environment variable FREQBENCH_DATA, found none: set it" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_dry_data_runs_every_cell(bench: Bench, tmp_path: Path) -> None:
    """Without LPIPS, whose weights may have to be fetched, into a store of its own name."""
    code, out, _ = bench("run", str(JOBS / "papers/vafa_table4.yaml"), "--dry-data", "phantom")
    assert code == 0
    assert "6 records in" in out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["vafa_table4-dry"]
