"""Defended models in a run: rows depend on no engine, order or batch, passes are counted, certificates are stored."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine.cases import records_of, run_serially, stored, units_of
from tiny_job import ARGS, ROI, execute, results, rows, small

from freqbench.engine.rows import Outcome
from freqbench.job.cells import Unit

SMOOTHING = {"name": "randomized_smoothing", "sigma": 0.005, "samples": 32, "selection_samples": 4, "tau": 0.6}
DEFENCES: dict[str, dict[str, Any]] = {
    "plain": {},
    "naive": {"defence": {"name": "bit_depth", "bits": 2}, "adaptive": False},
    "resized": {"defence": {"name": "random_resize_pad", "smallest": 0.6, "eot": 2}},
    "smoothed": {"defence": SMOOTHING | {"eot": 3}},
}
PGD = {"name": "pgd", "eps": "8/255", "steps": 2}
WHOLE = PGD | {"scope": "volume"}


def content(*attacks: dict[str, Any], names: Sequence[str] = tuple(DEFENCES)) -> dict[str, Any]:
    plain = {"arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI}
    models = [{"name": name, **plain, **DEFENCES[name]} for name in names]
    phantom = {"name": "phantom", "shape": [20, 16, 16], "cases": 1}
    return small(models=models, attacks=list(attacks), metrics=["dsc"], datasets=[phantom])


@pytest.fixture(scope="module")
def units() -> list[Unit]:
    return units_of(content(PGD, WHOLE))


@pytest.fixture(scope="module")
def first(units: list[Unit]) -> list[Outcome]:
    outcomes = run_serially(units, window_batch=1)
    assert not any(outcome.failed for outcome in outcomes)
    return outcomes


def test_rows_are_the_same_in_any_order(units: list[Unit], first: list[Outcome]) -> None:
    """The attack goes by windows; that of whole volumes draws alike."""
    own = [unit for unit in units if unit.cell.attack.scope == "window"]
    expected, again = (results(each)[0] for each in (first, run_serially(own[::-1], window_batch=1)))
    assert again == {key: expected[key] for key in again}
    assert len(again) == len(DEFENCES) ** 2


@pytest.mark.integration
def test_rows_are_the_same_whatever_goes_through_at_once(units: list[Unit], first: list[Outcome]) -> None:
    """To rounding: draws of another batch would change scores in the first digits."""
    again = {(row["cell_id"], row["target_model_id"]): row for row in records_of(run_serially(units, window_batch=2))}
    for row in records_of(first):
        other = again[row["cell_id"], row["target_model_id"]]
        for column in ("dsc", "dsc_clean", "l2", "linf", "certified_share", "certified_dice"):
            assert other[column] == pytest.approx(row[column], abs=2e-4), (row["source_model"], column)


def test_rows_have_passes_and_certificates_of_targets(first: list[Outcome]) -> None:
    records = records_of(first)
    passes = {
        (row["source_model"], json.loads(row["params"])["scope"]): (row["num_forwards"], row["num_backwards"])
        for row in records
    }
    steps = 2 * 2  # windows, steps
    for name, draws in {"plain": 1, "naive": 1, "resized": 2, "smoothed": 3}.items():
        assert passes[name, "window"] == (steps * draws, steps * draws)
    assert passes["smoothed", "volume"] == tuple(3 * number for number in passes["plain", "volume"])
    for row in records:
        is_smoothed = row["target_model"] == "smoothed"
        for column in ("certified_share", "certified_dice", "certified_dice_bound"):
            assert (row[column] is not None) == (row[f"{column}_clean"] is not None) == is_smoothed
        if is_smoothed:
            assert row["certified_radius"] == pytest.approx(0.005 * 0.2533471031357997)
            assert 0 < row["certified_share"] <= 1
            assert row["certified_dice_bound"] <= row["certified_dice"] + 1e-12
    row = next(row for row in records if (row["source_model"], row["target_model"]) == ("plain", "naive"))
    assert row["source_defence"] is None
    told = json.loads(row["target_defence"])
    assert told == {"name": "bit_depth", "bits": 2, "adaptive": False, "undefended": row["source_model_id"]}


@pytest.mark.integration
def test_saved_volumes_scored_on_a_defended_target_give_its_rows(tmp_path: Path) -> None:
    """A volume saved in one run is predicted in another with the draws of the case."""
    job = content(PGD, names=("plain", "resized")) | {"save_adversarial": "nifti"}
    execute(job | {"targets": "source"}, tmp_path / "a")
    execute(job, tmp_path / "b")
    reused = [row for key, row in rows(tmp_path / "b").items() if key in rows(tmp_path / "a")]
    assert sorted(map(str, reused)) == sorted(map(str, rows(tmp_path / "a").values()))


def test_randomised_network_is_held_to_its_undrawn_prediction(tmp_path: Path) -> None:
    """A reference that the draw made would be another for each draw, and no certificate would hold for it."""
    smoothing = {"name": "smoothing", "kind": "bias_field", "sigma": 0.5, "samples": 9, "eot": 1}
    job = content({"name": "ball", "kind": "bias_field", "radius": 0, "control": "random"}, names=["plain"])
    (model,) = job["models"]
    job |= {"models": [model | {"defence": smoothing}], "targets": "source"}
    job["datasets"][0] |= {"reference": "prediction"}
    execute(job, tmp_path / "out")
    (row,) = stored(tmp_path / "out")
    drawn = json.loads(row["draws"])["dsc"]
    assert (row["status"], len(drawn)) == ("ok", 9)
    assert 0 < drawn[0] < 1
    assert row["dsc_clean"] < 1


def test_smoothed_target_leaves_calibration_to_others(tmp_path: Path) -> None:
    """A smoothed target has draws and no probabilities: its scores have a part less than those of the others."""
    job = content({"name": "fgsm", "eps": "8/255"}, names=("plain", "naive")) | {"metrics": ["dsc", "calibration"]}
    job["models"][1] |= {"defence": {"name": "smoothing", "kind": "voxels", "sigma": 0.1, "samples": 5, "eot": 1}}
    execute(job, tmp_path)
    records = stored(tmp_path)
    assert [row["error"] for row in records] == [None] * 4
    assert {(row["target_model"], row["ece"] is None) for row in records} == {("plain", False), ("naive", True)}
