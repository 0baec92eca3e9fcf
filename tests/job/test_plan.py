"""What is left to do, given what is there."""

import json
from typing import Any

import pytest
from tiny import expanded, job, small

from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.job.grid import Grid
from freqbench.job.plan import make_plan
from freqbench.results import Key, index_keys

METRICS = frozenset({"dsc", "hd95"})


def keys_of(grid: Grid) -> list[Key]:
    return [unit.cell.key(unit.ref, target) for unit in grid.units() for target in unit.targets]


def test_an_empty_store_leaves_everything_and_a_full_one_nothing() -> None:
    _, grid = expanded(job())
    empty, full = make_plan(grid, {}), make_plan(grid, dict.fromkeys(keys_of(grid), METRICS))
    assert (empty.num_done, empty.num_todo, empty.units) == (0, 24, tuple(grid.units()))
    assert (full.num_done, full.num_todo, full.units) == (24, 0, ())


def test_a_unit_is_left_with_the_targets_that_it_lacks() -> None:
    _, grid = expanded(job())
    unit = next(grid.units())
    first, second = unit.targets
    plan = make_plan(grid, {unit.cell.key(unit.ref, first): METRICS})
    assert plan.units[0].targets == (second,)
    assert (plan.num_done, plan.num_todo) == (1, 23)


def test_a_row_that_covers_less_is_done_again_and_loses_nothing() -> None:
    _, grid = expanded(job(metrics=["psnr"]))
    first, *_ = keys_of(grid)
    plan = make_plan(grid, {first: frozenset({"dsc", "hd95"})})
    assert plan.num_done == 0
    assert plan.metrics == ("psnr", "dsc", "hd95")


def test_a_row_that_covers_more_is_done() -> None:
    _, grid = expanded(job(metrics=["dsc"]))
    plan = make_plan(grid, dict.fromkeys(keys_of(grid), METRICS))
    assert plan.units == ()
    assert plan.metrics == ("dsc",)


def test_a_case_s_key_is_found_once_however_many_cells_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    _, grid = expanded(job())
    real, asked = Dataset.case_key, []

    def counted(dataset: Dataset, ref: CaseRef) -> str:
        asked.append(ref.case_id)
        return real(dataset, ref)

    monkeypatch.setattr(Dataset, "case_key", counted)
    make_plan(grid, {})
    grid.index()
    assert len(grid.cells) == 6
    assert asked == [ref.case_id for ref in grid.cases["phantom"]]


def test_the_index_spells_out_all_keys() -> None:
    _, grid = expanded(job())
    assert index_keys(grid.index()) == set(keys_of(grid))


def test_passes_are_windows_times_the_attack_s_own() -> None:
    """24x20x16 in windows of 16 makes 2x2x1 of them; PGD of two steps goes twice forward and twice back."""
    _, grid = expanded(job())
    assert {(unit.cell.attack.name, unit.passes) for unit in grid.units()} == {("pgd", 4 * 4), ("fgsm", 4 * 2)}


VAFA = {"name": "vafa", "q_max": 20, "steps": 1, "block": "8x32x16"}


def params_of(*attacks: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    return [json.loads(cell.params) for cell in expanded(small(attacks=list(attacks), **changes))[1].cells]


def test_a_block_that_the_roi_cuts_is_said() -> None:
    (params,) = params_of(VAFA)
    assert (params["block"], params["block_cut"]) == ([8, 32, 16], "8x16x16")


def test_a_block_that_fits_and_attacks_without_one_say_nothing() -> None:
    assert all("block_cut" not in params for params in params_of({**VAFA, "block": 16}, {"name": "fgsm", "eps": 0.1}))


def test_a_slice_s_block_is_cut_in_the_slice_alone() -> None:
    fits, cut = params_of(*({"name": "vafa_2d", "q_max": 20, "steps": 1, "block": block} for block in (16, 20)))
    assert "block_cut" not in fits
    assert cut["block_cut"] == "16x16"


def test_the_roi_cuts_no_block_of_a_volume_that_is_attacked_as_one() -> None:
    ssa = {"name": "ssa", "eps": "8/255", "steps": 1, "block": 20}
    window, volume = params_of(ssa, {**ssa, "scope": "volume"})
    assert ("block_cut" in window, "block_cut" in volume) == (True, False)


def test_a_cut_is_of_the_source_whose_roi_it_is_and_of_no_identity() -> None:
    wide = {**job()["models"][0], "name": "wide", "roi": [16, 32, 16]}
    cut, whole = params_of(VAFA, models=[job()["models"][0], wide])
    assert ("block_cut" in cut, "block_cut" in whole) == (True, False)
    cell = expanded(small(attacks=[VAFA]))[1].cells[0]
    assert cell.cell_id == "5227a37f9be3e1df"
