"""The stop of a run whose checkpoint does not fit the data: for which models it comes, and what it leaves."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_job import ARGS, ROI, execute, expanded, save_weights, small

import freqbench as fb
from freqbench.core.errors import MisfitError
from freqbench.engine.critic import MISFIT_CAUSES, Critic
from freqbench.engine.run import Recorder
from freqbench.job.plan import make_plan
from freqbench.models import build
from freqbench.results import Store

SHAPE = [16, 16, 16]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that nobody trained, in a file with freqbench's record, as if somebody had."""
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_weights(path, seed=3)
    return str(path)


def test_weights_of_a_fresh_network_in_a_file_stop_no_run_unless_the_job_has_a_floor(tmp_path: Path) -> None:
    torch.save(build("unet", 6, ROI, dict(ARGS), seed=3).state_dict(), tmp_path / "fresh.pt")
    entry = {"name": "m", "arch": "unet", "args": ARGS, "roi": ROI, "checkpoint": str(tmp_path / "fresh.pt")}
    _, warnings, dice = run(tmp_path / "out", entry)
    assert dice < 0.3
    assert any("m: its weights look untrained" in text for text in warnings)
    with pytest.raises(MisfitError):
        run(tmp_path / "stopped", {**entry, "min_dice": 0.3})


def run(out: Path, *entries: dict[str, Any], **changes: Any) -> tuple[list[str], list[str], float]:
    """Lines on the terminal and warnings in the run's file, and the first clean Dice."""
    said = io.StringIO()
    phantoms = [{"name": "phantom", "shape": SHAPE, "cases": 2}]
    execute(small(**{"datasets": phantoms, "models": list(entries), "metrics": ["dsc"], **changes}), out, said)
    store = Store(str(out))
    dice = store.records().to_pylist()[0]["dsc_foreground_clean"]
    lines = [line for line in said.getvalue().splitlines() if "does not fit" in line]
    return lines, store.runs()[-1]["warnings"], dice


def test_a_checkpoint_below_its_floor_stops_the_run_each_time_until_the_floor_goes(
    checkpoint: str, tmp_path: Path
) -> None:
    """The rows stay, and a repeated command adds none."""
    for _ in range(2):
        with pytest.raises(MisfitError) as stop:
            run(tmp_path, {"name": "m", "checkpoint": checkpoint, "min_dice": 0.3})
    (row,) = Store(str(tmp_path)).records().to_pylist()
    expected = (
        f"m: clean foreground Dice {row['dsc_foreground_clean']:.2f} on phantom_2000 of phantom, expected min_dice 0.3 "
        f"at least: this checkpoint does not fit this dataset or preprocessing ({MISFIT_CAUSES})"
    )
    assert row["dsc_foreground_clean"] < 0.3
    assert str(stop.value) == f"{expected}; rows so far are in {tmp_path}: fix it, or give m min_dice: 0 to go on"
    run(tmp_path, {"name": "m", "checkpoint": checkpoint, "min_dice": 0})
    first, again, last = Store(str(tmp_path)).runs()
    assert (first["status"], first["warnings"], first["records"]) == ("stopped", [expected], 1)
    assert [(each["status"], each["records"]) for each in (again, last)] == [("stopped", 0), ("done", 1)]


def test_weights_that_the_job_trained_are_only_warned_of(checkpoint: str, tmp_path: Path) -> None:
    grid = expanded(small(models=[{"name": "m", "checkpoint": checkpoint, "roi": ROI, "min_dice": 0.3}]))[1]
    said = io.StringIO()
    trained = replace(grid.cells[0].source, training="0" * 16)
    plan = make_plan(replace(grid, cells=(replace(grid.cells[0], targets=(trained,)),)), {})
    recorder = Recorder(Store(str(tmp_path)), plan, Console(file=said, width=80))
    record = {"dataset": "phantom", "target_model_id": trained.model_id, "case_id": "c", "dsc_foreground_clean": 0.1}
    recorder._require_fit(record)
    assert said.getvalue().startswith("warning: m: clean foreground Dice 0.10 on c of phantom")


def test_python_says_in_the_record_s_caution_that_the_clean_dice_is_low(checkpoint: str) -> None:
    case = fb.load_dataset("phantom", shape=SHAPE, split="test")[0]
    records = [
        fb.evaluate(fb.load_model(checkpoint, **floor), case, case.image, metrics=["dsc"])
        for floor in ({}, {"min_dice": 0})
    ]
    assert "below min_dice 0.3" in str(records[0]["caution"])
    assert records[1]["caution"] is None


def test_checkpoints_at_their_floor_and_untrained_networks_get_no_warning(checkpoint: str, tmp_path: Path) -> None:
    untrained = [
        {"name": name, "arch": "unet", "checkpoint": f"random:{seed}", "args": ARGS, "roi": ROI, "min_dice": 0.9}
        for seed, name in enumerate("ab")
    ]
    ensemble = {"name": "e", "ensemble": ["a", "b"], "min_dice": 0.9}
    at_floor = {"name": "m", "checkpoint": checkpoint, "min_dice": 0}
    lines, warnings, dice = run(tmp_path, at_floor, *untrained, ensemble)
    assert dice < 0.9
    assert (lines, warnings) == ([], [])


def test_an_ensemble_of_checkpoints_has_its_own_floor(checkpoint: str) -> None:
    members = [
        {"name": n, "checkpoint": checkpoint, "roi": roi, "min_dice": 0.3} for n, roi in (("a", ROI), ("b", ROI))
    ]
    members[1]["inference"] = {"overlap": 0.25}
    _, grid = expanded(
        small(models=[*members, {"name": "e", "ensemble": ["a", "b"], "inference": {}, "min_dice": 0.7}])
    )
    assert {cell.source.name: cell.source.min_dice for cell in grid.cells} == {"a": 0.3, "b": 0.3, "e": 0.7}


def test_a_case_without_foreground_says_nothing_and_the_next_one_does(checkpoint: str, tmp_path: Path) -> None:
    grid = expanded(small(models=[{"name": "m", "checkpoint": checkpoint, "roi": ROI, "min_dice": 0.3}]))[1]
    critic = Critic(make_plan(grid, {}))
    names = {"dataset": "phantom", "target_model": "m", "target_model_id": grid.cells[0].source.model_id}
    for case, dice in (("failed", None), ("empty", math.nan)):
        assert critic.misfit({**names, "case_id": case, "dsc_foreground_clean": dice}) is None
    misfit = critic.misfit({**names, "case_id": "third", "dsc_foreground_clean": 0.1})
    assert misfit is not None
    assert "clean foreground Dice 0.10 on third of phantom" in misfit[1]


def far(tmp_path: Path, checkpoint: str, expected: float, patients: int = 4) -> tuple[MisfitError | None, int]:
    """The stop of a run of this many phantoms, and its rows."""
    entry = {"name": "m", "checkpoint": checkpoint, "min_dice": 0, "expected_dice": expected}
    try:
        run(tmp_path, entry, datasets=[{"name": "phantom", "shape": SHAPE, "cases": patients}])
    except MisfitError as error:
        return error, len(Store(str(tmp_path)).records())
    return None, len(Store(str(tmp_path)).records())


def test_a_mean_far_below_the_expected_dice_stops_the_run_at_the_third_patient_each_time(
    checkpoint: str, tmp_path: Path
) -> None:
    """Without the key the same command goes on, as it is part of no identity."""
    for _ in range(2):
        stop, rows = far(tmp_path, checkpoint, 0.87)
        assert rows == 3
        text = str(stop)
        assert text.startswith("m on phantom: mean clean foreground Dice 0.")
        assert " on the first 3 cases, expected_dice 0.87: " in text
        assert "check roi, intensity, axes and spacing" in text
        assert text.endswith("or give m no expected_dice to go on")
    entry = {"name": "m", "checkpoint": checkpoint, "min_dice": 0}
    run(tmp_path, entry, datasets=[{"name": "phantom", "shape": SHAPE, "cases": 4}])
    assert len(Store(str(tmp_path)).records()) == 4


def test_a_mean_near_the_expected_dice_or_two_patients_stop_no_run(checkpoint: str, tmp_path: Path) -> None:
    assert far(tmp_path / "near", checkpoint, 0.05) == (None, 4)
    assert far(tmp_path / "two", checkpoint, 0.87, patients=2) == (None, 2)


def test_python_says_from_the_third_patient_on_that_the_dice_is_far_below_what_is_expected(checkpoint: str) -> None:
    cases = fb.load_dataset("phantom", shape=SHAPE, split="test")
    model = fb.load_model(checkpoint, min_dice=0, expected_dice=0.87)
    said = [
        fb.evaluate(model, case, case.image, metrics=["dsc"])["caution"] for case in (*cases[:2], cases[1], cases[2])
    ]
    assert said[:3] == [None] * 3
    assert "on the first 3 cases, expected_dice 0.87" in str(said[3])
