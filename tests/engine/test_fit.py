"""The warning that a checkpoint does not fit the data: for which models it comes, and once."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import ARGS, ROI, execute, expanded, save_weights, small

from freqbench.engine.run import MISFIT_CAUSES, _Run
from freqbench.job.plan import make_plan
from freqbench.results import Store

SHAPE = [16, 16, 16]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that nobody trained, in a file as if somebody had."""
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_weights(path, seed=3)
    return str(path)


def run(out: Path, *entries: dict[str, Any], **changes: Any) -> tuple[list[str], list[str], float]:
    """Lines on the terminal and warnings in the run's file, and the first clean Dice."""
    said = io.StringIO()
    phantoms = [{"name": "phantom", "shape": SHAPE, "cases": 2}]
    execute(small(**{"datasets": phantoms, "models": list(entries), "metrics": ["dsc"], **changes}), out, said)
    store = Store(str(out))
    dice = store.records().to_pylist()[0]["dsc_foreground_clean"]
    lines = [line for line in said.getvalue().splitlines() if "does not fit" in line]
    return lines, store.runs()[-1]["warnings"], dice


def test_a_checkpoint_below_its_floor_is_named_once_a_dataset_on_terminal_and_in_the_run_s_file(
    checkpoint: str, tmp_path: Path
) -> None:
    phantoms = [{"name": name, "loader": "phantom", "shape": SHAPE, "cases": 2} for name in ("p", "q")]
    lines, warnings, dice = run(tmp_path, {"name": "m", "checkpoint": checkpoint}, datasets=phantoms)
    expected = (
        f"m: clean foreground Dice {dice:.2f} on phantom_2000 of {{}}, expected min_dice 0.3 at least: this checkpoint "
        f"does not fit this dataset or preprocessing ({MISFIT_CAUSES})"
    )
    assert dice < 0.3
    assert sorted(warnings) == [expected.format(name) for name in ("p", "q")]
    assert lines == [f"warning: {text}" for text in warnings]


def test_nothing_is_said_of_a_checkpoint_at_its_floor_and_of_untrained_weights_and_their_ensemble(
    checkpoint: str, tmp_path: Path
) -> None:
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
    members = [{"name": n, "checkpoint": checkpoint, "roi": roi} for n, roi in (("a", ROI), ("b", ROI))]
    members[1]["inference"] = {"overlap": 0.25}
    _, grid = expanded(
        small(models=[*members, {"name": "e", "ensemble": ["a", "b"], "inference": {}, "min_dice": 0.7}])
    )
    assert {cell.source.name: cell.source.min_dice for cell in grid.cells} == {"a": 0.3, "b": 0.3, "e": 0.7}


def test_a_case_without_foreground_says_nothing_and_the_next_one_does(checkpoint: str, tmp_path: Path) -> None:
    grid = expanded(small(models=[{"name": "m", "checkpoint": checkpoint, "roi": ROI}]))[1]
    said = io.StringIO()
    run = _Run(Store(str(tmp_path)), make_plan(grid, {}), Console(file=said, width=80))
    names = {"dataset": "phantom", "target_model": "m", "target_model_id": grid.cells[0].source.model_id}
    for case, dice in (("failed", None), ("empty", math.nan), ("third", 0.1), ("fourth", 0.1)):
        run._check_fit({**names, "case_id": case, "dsc_foreground_clean": dice})
    (line,) = said.getvalue().splitlines()
    assert "clean foreground Dice 0.10 on third of phantom" in line
