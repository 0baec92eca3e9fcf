"""Units of one case and network whose attacks share passes, as on a GPU."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from engine.cases import run_serially, units_of
from tiny_job import NUM_WINDOWS, ROI, job, noted, small

from freqbench import models
from freqbench.engine import attacking, memory
from freqbench.engine.rows import Outcome
from freqbench.engine.schedule import Schedule
from freqbench.job.cells import Unit
from freqbench.models import SegmentationModel

ONE_WINDOW = {"datasets": [{"name": "phantom", "shape": ROI, "cases": 3}]}
ATTACKS = [
    {"name": "pgd", "eps": ["2/255", "8/255"], "steps": 3},
    {"name": "sa2_opt", "rho": 0.4, "steps": 3, "block": 8},
    {"name": "sa2_opt", "rho": 0.4, "block": 8, "control": "random"},
    {"name": "apgd", "eps": "8/255", "steps": 3, "scope": "volume"},
]
OF_PREDICTION = [
    {"name": "pgd", "eps": ["2/255", "8/255"], "steps": 3, "scope": "joint"},
    {"name": "sa2_opt", "rho": 0.4, "steps": 3, "block": 8},
    {"name": "sa2_opt", "rho": 0.4, "block": 8, "control": "random"},
    {"name": "apgd", "eps": "8/255", "steps": 3, "scope": "volume"},
]
MANY = small(attacks=ATTACKS, seeds=[0, 1], **ONE_WINDOW)


def scores(outcomes: Sequence[Outcome]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    return {(row["cell_id"], row["case_key"]): row for outcome in outcomes for row in outcome.records}


def passes(patch: pytest.MonkeyPatch, units: Sequence[Unit], **spec: Any) -> tuple[list[int], list[Outcome]]:
    """Samples of each pass of the networks, predictions too, and the outcomes."""
    with patch.context() as patch:
        sizes = noted(patch, SegmentationModel, "forward", lambda _, images, *__: len(images))
        return sizes, run_serially(units, **spec)


def test_rows_are_those_of_attacks_alone_in_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, expected = passes(monkeypatch, units_of(MANY))
    shared, outcomes = passes(monkeypatch, units_of(MANY), in_step=True, window_batch=8)
    assert scores(outcomes).keys() == scores(expected).keys()
    for key, row in scores(expected).items():
        other = scores(outcomes)[key]
        assert other["dsc"] == pytest.approx(row["dsc"], abs=1e-3)
        assert (other["num_forwards"], other["num_backwards"]) == (row["num_forwards"], row["num_backwards"])
        assert other["status"] == "ok"
    attacked = [unit for unit in units_of(MANY) if unit.passes]
    assert len(attacked) == 24, "eight a case, of which the grid's end leaves the last apart"
    assert sum(alone) == sum(shared), "no pass of a volume is saved or made twice"
    assert len(shared) < len(alone) / 2
    assert max(shared) == 8


def test_predictions_share_passes_with_those_of_null_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass each for the clean volume, the attacks and the null rows of a case."""
    sizes = noted(monkeypatch, SegmentationModel, "scores", lambda _, images, *__: len(images))
    expected = run_serially(units_of(MANY))
    alone = sizes.copy()
    sizes.clear()
    outcomes = run_serially(units_of(MANY), in_step=True, window_batch=16)
    for key, row in scores(expected).items():
        assert scores(outcomes)[key]["dsc"] == pytest.approx(row["dsc"], abs=1e-3)
    assert max(alone) == 1
    assert sum(sizes) == sum(alone)
    assert sorted(sizes) == sorted([1, 2, 8] * 3)


@pytest.mark.parametrize("failing", ["its volume", "the passes of all"])
def test_a_row_beside_one_that_fails_is_predicted(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real_attack, real_passes = attacking.attack_case, models.predictions

    def attack_case(attack: Any, *about: Any, **options: Any) -> Any:
        if attack.passes == (0, 0) and failing == "its volume":
            raise ZeroDivisionError("mine")
        return real_attack(attack, *about, **options)

    def predictions(model: Any, volumes: Any, *about: Any) -> Any:
        if failing == "the passes of all":
            raise ZeroDivisionError("mine")
        return real_passes(model, volumes, *about)

    monkeypatch.setattr(attacking, "attack_case", attack_case)
    monkeypatch.setattr(models, "predictions", predictions)
    outcomes = run_serially(units_of(MANY), in_step=True, window_batch=16)
    failed = [row for outcome in outcomes for row in outcome.records if row["status"] == "failed"]
    assert {row["attack"] for row in failed} == ({"sa2_opt"} if failing == "its volume" else set())
    assert len(failed) == (6 if failing == "its volume" else 0)


def test_a_unit_alone_has_the_time_of_its_share_and_the_batch_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = noted(monkeypatch, attacking, "attack_in_step", lambda attacks, *_: len(attacks))
    outcomes = run_serially(units_of(MANY), in_step=True, window_batch=8)
    rows = [row for outcome in outcomes for row in outcome.records if row["window_batch"] == 8]
    assert calls.count(8) >= 2
    firsts = [row["attack_seconds"] for row in rows[:8]]
    assert sum(firsts) > 0
    assert len({seconds for seconds in firsts if firsts.count(seconds) > 1}) >= 1, "one call, one time"


def test_memory_for_fewer_windows_makes_smaller_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = attacking.attack_in_step, list[int]()

    def attack_in_step(attacks: Sequence[Any], *about: Any) -> Any:
        sizes.append(len(attacks))
        if len(attacks) > 4:
            return [torch.OutOfMemoryError("CUDA out of memory")] * len(attacks)
        return real(attacks, *about)

    monkeypatch.setattr(attacking, "attack_in_step", attack_in_step)
    outcomes = run_serially(units_of(MANY), in_step=True, window_batch=8)
    assert not any(outcome.failed for outcome in outcomes)
    assert [size for size in sizes if size > 2][:3] == [8, 4, 4], "beside two null rows"


def test_an_attack_that_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attacking.attack_case

    def attack_case(attack: Any, *about: Any, **options: Any) -> Any:
        if attack.name == "pgd" and attack.eps > 0.03:
            raise ZeroDivisionError("mine")
        return real(attack, *about, **options)

    monkeypatch.setattr(attacking, "attack_case", attack_case)
    outcomes = run_serially(units_of(MANY), in_step=True, window_batch=8)
    failed = [row for outcome in outcomes for row in outcome.records if row["status"] == "failed"]
    assert {(row["attack"], row["budget"] > 0.03, "mine" in row["error"]) for row in failed} == {("pgd", True, True)}
    assert len(failed) == 6


@pytest.mark.parametrize("inference", [{}, {"average": "probabilities"}], ids=["logits", "means of probabilities"])
def test_predictions_of_several_windows_share_passes(
    inference: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that act together, and volumes attacked as one: two attacks, of four windows each, at a time."""
    (model,) = small()["models"]
    content = small(attacks=OF_PREDICTION, seeds=[0, 1], models=[model | {"inference": inference}])
    alone, expected = passes(monkeypatch, units_of(content))
    shared, outcomes = passes(monkeypatch, units_of(content), in_step=True, window_batch=2 * NUM_WINDOWS)
    for key, row in scores(expected).items():
        other = scores(outcomes)[key]
        assert other["dsc"] == pytest.approx(row["dsc"], abs=1e-3)
        assert other["l2"] == pytest.approx(row["l2"], rel=1e-3)
        for count in ("num_windows", "num_forwards", "num_backwards"):
            assert other[count] == row[count]
    assert not any(outcome.failed for outcome in outcomes)
    assert sum(alone) == sum(shared), "no pass of a window is saved or made twice"
    assert max(shared) == 2 * NUM_WINDOWS
    assert len(shared) < len(alone) / 4


def test_predictions_whose_graphs_do_not_fit_stay_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = noted(monkeypatch, attacking, "attack_in_step", lambda attacks, *_: attacks[0][0].passes)
    monkeypatch.setattr(memory, "windows_in_graph", lambda *_: 2 * NUM_WINDOWS - 1)
    outcomes = run_serially(units_of(small(attacks=OF_PREDICTION, seeds=[0, 1])), in_step=True, window_batch=8)
    assert set(calls) <= {(0, 0)}, "null rows alone"
    assert not any(outcome.failed for outcome in outcomes)


def test_windows_that_are_coupled_go_their_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = noted(monkeypatch, attacking, "attack_in_step", lambda *_: "in step")
    attacks = [{"name": "segpgd", "eps": ["2/255", "8/255"], "steps": 2, "variant": "released"}]
    outcomes = run_serially(units_of(small(attacks=attacks, **ONE_WINDOW)) * 2, in_step=True, window_batch=8)
    assert not calls
    assert not any(outcome.failed for outcome in outcomes)


def test_windows_of_a_volume_share_passes_where_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    content = small(attacks=[{"name": "pgd", "eps": ["2/255", "4/255", "8/255"], "steps": 2}], seeds=[0, 1])
    calls = noted(monkeypatch, attacking, "attack_in_step", lambda attacks, *_: len(attacks))
    run_serially(units_of(content), in_step=True, window_batch=2 * NUM_WINDOWS)
    assert set(calls) == {2}


def test_units_beside_are_those_of_the_place_but_those_kept() -> None:
    units = units_of(job(seeds=[0, 1, 2]))
    schedule = Schedule(units)
    first = schedule.take("w")
    assert first is not None
    waiting = [u for u in units if (u.cell.source, u.ref) == (first.cell.source, first.ref) and u is not first]
    kept = {id(waiting[0])}
    beside = schedule.take_beside(first, kept)
    assert {id(each) for each in beside} == {id(each) for each in waiting[1:]}
    assert len(schedule) == len(units) - len(waiting)
    assert schedule.take("w") is waiting[0]
    rest = list(iter(lambda: schedule.take("w"), None))
    assert len(rest) == len(units) - len(waiting) - 1
    assert not schedule.take_beside(first)


def test_other_workers_get_the_units_of_the_end_of_a_grid() -> None:
    schedule = Schedule(units_of(small(**ONE_WINDOW)))
    first = schedule.take("w")
    assert first is not None
    assert not schedule.take_beside(first)
    assert len(schedule) == 2
