"""Changes that move a cell's id, and those that do not: a wrong id recomputes all, or takes one result for another."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.examples import EXAMPLES, entry
from engine.cases import grid_of, row_keys
from tiny_job import expanded, job, save_weights, sent, small

from freqbench.attacks import PGD, Attack, make
from freqbench.core.code import identify, provenance
from freqbench.job.attacks import attack_identity, attack_params
from freqbench.job.cells import Cell


def cell_of(content: dict[str, Any]) -> Cell:
    return grid_of(content).cells[0]


def test_ids_of_today_stay() -> None:
    """The keys of stored results: a change here computes all of them anew."""
    content = small(attacks=[{"name": "fgsm", "eps": "8/255"}, {"name": "pgd", "eps": 0.03125, "steps": 2}], seeds=[7])
    _, grid = expanded(content)
    assert [cell.key(grid.cases["phantom"][0], cell.source) for cell in grid.cells] == PINNED


def test_units_of_every_attack_reach_another_process_as_they_are() -> None:
    """Their rows are then the serial engine's, which `test_ray_engine` shows on one attack of each kind."""
    units = list(grid_of(job(attacks=list(map(entry, EXAMPLES)), targets="source")).units())
    received = sent(units)
    assert received == units
    expected = [unit.cell.cell_id for unit in units]
    assert [unit.cell.cell_id for unit in received] == expected


PINNED = [
    ("8eea1793f5430e7e", "6cc1bdd12e87040d", "1549e6e321eeb967"),
    ("a36a34526ef2877c", "6cc1bdd12e87040d", "1549e6e321eeb967"),
]


def coupled(variant: str, window_batch: object) -> Cell:
    entry = {"name": "segpgd", "eps": "8/255", "steps": 2, "variant": variant}
    return cell_of(small(attacks=[entry], window_batch=window_batch))


def test_windows_at_once_are_in_coupled_attacks_ids_alone() -> None:
    assert coupled("released", 3).cell_id != coupled("released", 2).cell_id
    assert coupled("paper", 3).cell_id == coupled("paper", 2).cell_id


def test_auto_is_the_papers_four_for_coupled_attacks() -> None:
    """The number holds on any device: a card and a CPU otherwise take 4 and 1."""
    assert coupled("released", "auto").cell_id == coupled("released", 4).cell_id
    assert (coupled("released", "auto").window_batch, coupled("paper", "auto").window_batch) == (4, None)


def test_windows_at_once_are_coupled_attacks_parameters() -> None:
    """Tables tell rows apart by it that differ in nothing else."""
    assert json.loads(coupled("released", 3).params)["window_batch"] == 3
    assert coupled("paper", 3).params == attack_params(coupled("paper", 3).attack)
    assert "window_batch" not in coupled("paper", 3).params


def test_the_id_hangs_on_weights_and_not_on_their_path(tmp_path: Path) -> None:
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        save_weights(tmp_path / f"{name}.safetensors", seed=seed)
    a, b, c = (
        cell_of(small(models=[{"name": "m", "checkpoint": str(tmp_path / f"{name}.safetensors")}])).cell_id
        for name in "abc"
    )
    assert a == b
    assert a != c


def test_the_order_of_a_job_changes_no_key() -> None:
    content = job()
    keys = {*row_keys(grid_of(content))}
    turned = {key: content[key][::-1] for key in ("models", "attacks", "metrics")}
    assert len(keys) == 2 * 2 * 3 * 2
    assert {*row_keys(grid_of(content | turned))} == keys


@dataclass(frozen=True, kw_only=True)
class Longer(PGD):
    """PGD with a parameter that did not exist when its first results were stored."""

    decay: float = 0.0


def test_a_new_parameter_changes_no_id_until_it_is_used() -> None:
    assert own(Longer(eps=0.1)) == attack_identity(PGD(eps=0.1))
    assert own(Longer(eps=0.1, decay=0.5)) == {**attack_identity(PGD(eps=0.1)), "decay": 0.5}


def own(attack: Attack) -> dict[str, Any]:
    """The identity without what names a class of another package, as those of tests are."""
    return {name: value for name, value in attack_identity(attack).items() if name not in provenance(type(attack))}


def test_attack_of_another_package_is_told_apart_by_its_code() -> None:
    assert attack_identity(Longer(eps=0.1))["code"] == identify(Longer).digest


def test_identities_keep_parameters_off_their_default() -> None:
    assert attack_identity(make("pgd", eps=0.1, steps=20, random_start=False)) == {
        "name": "pgd",
        "revision": 1,
        "eps": 0.1,
        "random_start": False,
    }


def test_whole_numbers_are_the_floats_that_they_stand_for() -> None:
    """`eps: 0` and `eps: 0/255` are one budget."""
    cells = grid_of(small(attacks=[{"name": "fgsm", "eps": [0, "0/255", 1, 1.0]}])).cells
    assert [cell.attack.eps for cell in cells] == [0, 1]
    assert [repr(attack_identity(cell.attack)["eps"]) for cell in cells] == ["0.0", "1.0"]


def test_two_splits_of_one_recipe_share_cells_and_no_key() -> None:
    entry = {"loader": "phantom", "shape": [24, 20, 16], "cases": 1}
    _, grid = expanded(small(datasets=[{**entry, "name": "x"}, {**entry, "name": "y", "split": "train"}]))
    assert len({cell.cell_id for cell in grid.cells}) == 1
    assert len({unit.cell.key(unit.ref, unit.cell.source) for unit in grid.units()}) == 2
