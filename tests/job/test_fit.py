"""Assumptions of a network that nobody described, and a clean Dice far below the one that is expected."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.cases import grid_of
from tiny_job import ARGS, ROI, expanded, save_weights, small

from freqbench.core.errors import UserError
from freqbench.data import Dataset
from freqbench.job.fit import CAUSES, assumptions, note_of, shortfall
from freqbench.job.schema import build_dataset
from freqbench.models import Facts, ModelEntry, build, facts_of

OF_MODEL = {"roi", "input.axes", "input.scale", "inference.overlap", "inference.weighting"}
OF_DATASET = {"intensity", "spacing", "crop_foreground"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "bare.pt"
    torch.save(build("unet", 6, ROI, dict(ARGS)).state_dict(), path)
    return str(path)


def folder(**keys: Any) -> tuple[Dataset, dict[str, Any]]:
    entry = {"name": "d", "loader": "nnunet_raw", "root": "nowhere", **keys}
    return build_dataset(entry, "d"), entry


def assumed(entry: ModelEntry, **keys: Any) -> set[str]:
    return {each.key for each in assumptions(entry, facts_of(entry, 6, 1), *folder(**keys))}


def test_all_that_nobody_told_of_a_bare_checkpoint_is_assumed(bare: str) -> None:
    assert assumed(ModelEntry(name="m", arch="unet", checkpoint=bare)) == OF_MODEL | OF_DATASET


@pytest.mark.parametrize(
    ("of_model", "of_dataset", "told"),
    [
        ({"roi": [16, 16, 16]}, {}, {"roi"}),
        ({"input": {"axes": "IJK"}}, {}, {"input.axes"}),
        ({"input": {"mean": 50}}, {}, {"input.scale"}),
        ({"inference": {"overlap": 0.25}}, {}, {"inference.overlap"}),
        ({"preprocess": {"intensity": "zscore", "crop_foreground": False}}, {}, {"intensity", "crop_foreground"}),
        ({}, {"intensity": "percentile", "spacing": [1, 1, 1]}, {"intensity", "spacing"}),
        ({}, {"crop_foreground": True}, {"crop_foreground"}),
    ],
)
def test_stated_is_not_assumed(bare: str, of_model: dict[str, Any], of_dataset: dict[str, Any], told: set[str]) -> None:
    entry = ModelEntry(name="m", arch="unet", checkpoint=bare, **of_model)
    assert assumed(entry, **of_dataset) == (OF_MODEL | OF_DATASET) - told


def test_nothing_is_assumed_of_a_command() -> None:
    entry = ModelEntry(name="m", command=("tool", "{image}", "{labels}"))
    assert assumptions(entry, Facts(arch="command"), *folder()) == ()


def test_folder_with_window_and_space_assumes_nothing() -> None:
    space = folder()[0].space
    told = {"roi": (16, 16, 16), "space": space, "inference": {"windows": "even"}}
    facts = Facts(arch="nnunet", path="f", **told)
    entry = ModelEntry(name="m", arch="nnunet", checkpoint="f")
    assert assumptions(entry, facts, *folder()) == ()
    open_ends = Facts(arch="bundle", path="f", roi=(16, 16, 16), space=space)
    assert {a.key for a in assumptions(entry, open_ends, *folder())} == {"inference.overlap", "inference.weighting"}


def test_untrained_and_own_weights_need_no_assumption(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.safetensors")
    for entry in (
        ModelEntry(name="m", arch="unet", checkpoint="random"),
        ModelEntry(name="m", checkpoint=str(tmp_path / "own.safetensors")),
    ):
        assert assumed(entry) == set()


def test_a_plan_says_in_one_line_what_is_assumed(bare: str) -> None:
    entry = {"name": "m", "arch": "unet", "args": ARGS, "roi": ROI, "checkpoint": bare}
    (line,) = [note for note in grid_of(small(models=[entry])).notes if "assumed" in note]
    assert line.startswith("m on phantom: assumed, as neither job nor files say it: input.axes: HWD (towards RAS); ")
    assert "inference.weighting: constant" in line
    assert list(note_of("m", ())) == []


def dice(*values: float) -> dict[tuple[str, str], float]:
    return {(f"p{i}", "c"): value for i, value in enumerate(values)}


@pytest.mark.parametrize(
    ("clean", "last", "first"),
    [
        (dice(0.5, 0.6, 0.7), 0.6 + 0.2 / math.sqrt(3), 0.6 + 0.2 / math.sqrt(3) + 0.001),  # errors: 0.1 / sqrt(3)
        (dice(0.8, 0.8, 0.8), 0.85, 0.851),  # the margin alone
        (dice(0.2, 0.6, 0.7, 0.9), 0.6 + 0.2943920288775949, 0.6 + 0.296),  # sd sqrt(0.26 / 3), 4 patients
    ],
)
def test_far_below_is_two_errors_and_margin(clean: dict[tuple[str, str], float], last: float, first: float) -> None:
    assert shortfall(last - 1e-6, clean) is None
    assert shortfall(first, clean) is not None


TWO_PATIENTS = {(patient, str(case)): 0.01 * case for patient, case in itertools.product("ab", range(9))}


@pytest.mark.parametrize(("expected", "is_short"), [(0.87, True), (0.089, False), (0.079, False), (None, True)])
def test_two_patients_have_half_of_the_margin(expected: float | None, is_short: bool) -> None:
    """The mean is 0.04: below half of 0.089 by too little to say something."""
    assert (shortfall(expected, TWO_PATIENTS) is not None) == is_short


def test_the_line_says_figure_expectation_margin_and_causes() -> None:
    """The third patient's one case counts as much as the nine of another."""
    assert shortfall(0.87, {**TWO_PATIENTS, ("c", "x"): 0.07}) == (
        "clean foreground Dice 0.050 (19 cases), expected_dice 0.87: lower by more than two standard errors (each "
        f"0.010) and 0.05: {CAUSES}"
    )


def test_a_mean_below_a_half_that_nobody_expects_is_too_low() -> None:
    assert shortfall(None, dice(0.2, 0.8)) is None
    assert str(shortfall(None, dice(0.2, 0.79))).startswith("clean foreground Dice 0.495 (2 cases): below 0.5, and no ")
    assert shortfall(None, {}) is None


@pytest.mark.parametrize("wrong", [0, 87, -0.1, "high"])
def test_an_expected_dice_is_a_share(wrong: object) -> None:
    with pytest.raises(UserError, match=r"job.yaml: models\[0\].expected_dice: "):
        expanded(small(models=[{"name": "m", "arch": "unet", "checkpoint": "random", "expected_dice": wrong}]))


@pytest.mark.parametrize(("floor", "expected"), [(0, 0.01), (0.3, None)])
def test_former_floor_is_left_out(floor: float, expected: float | None) -> None:
    entry = ModelEntry(name="m", checkpoint="zoo://phantom/unet", min_dice=floor)  # type: ignore[call-arg]
    assert entry.expected_dice == expected
    assert "min_dice" not in entry.model_dump()
