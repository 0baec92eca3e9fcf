"""Entries of attacks that more steps or queries make stronger, which `audit --converge` compares and recommends."""

from collections.abc import Mapping
from typing import Any

import pytest
from tiny_job import JOB, expanded, job

from freqbench.job.attacks import counted_entry
from freqbench.job.grid import Grid


def grid(*attacks: Mapping[str, Any]) -> Grid:
    return expanded(job(attacks=list(attacks), models=JOB["models"]))[1]


@pytest.mark.parametrize(
    ("attack", "effort"),
    [
        ({"name": "pgd", "eps": "8/255", "steps": 4, "loss": "ce"}, {"steps": 4, "loss": "ce", "restarts": 1}),
        ({"name": "segpgd", "eps": "8/255", "steps": 3}, {"steps": 3, "restarts": 1}),
        ({"name": "vafa", "q_max": 20, "steps": 4}, {"steps": 4, "loss": "dicece", "restarts": 1}),
        ({"name": "autoattack", "eps": 0.1, "queries": 7, "steps": 8}, {"steps": 8, "restarts": 1}),
        ({"name": "square", "eps": 0.1, "loss": "ce", "queries": 6}, {"queries": 6, "loss": "ce", "restarts": 1}),
        ({"name": "rays", "eps": 0.1, "queries": 6}, {"queries": 6}),
        (
            {"name": "bases", "eps": 0.1, "steps": 5, "queries": 6, "surrogates": [["b"]], "sources": "a"},
            {"steps": 5, "queries": 6, "loss": "dicece", "restarts": 1},
        ),
    ],
    ids=lambda value: value.get("name", ""),
)
def test_an_entry_ends_with_its_length_loss_and_restarts(attack: dict[str, Any], effort: dict[str, Any]) -> None:
    """Losses of their own, searches, ensembles of a search, and gradients of other networks beside queries."""
    entry = counted_entry(grid(attack).cells[0].attack)
    assert entry is not None
    assert [*entry.items()][-len(effort) :] == [*effort.items()]


@pytest.mark.parametrize(
    "attack",
    [
        *({"name": "fgsm", "eps": "8/255"}, {"name": "gn", "std": "8/255"}, {"name": "almaprox"}),
        {"name": "bases", "eps": 0.1, "surrogates": [["b"]], "sources": "a", "control": "uniform"},
    ],
    ids=lambda attack: attack["name"],
)
def test_no_length_null_row_and_smallest_change_have_no_entry(attack: dict[str, Any]) -> None:
    assert counted_entry(grid(attack).cells[0].attack) is None


@pytest.mark.parametrize(
    "attack",
    [
        {"name": "apgd", "eps": "4/255", "eps_schedule": [[[2, 0.5], [1, 0.5]]]},
        {"name": "vafa", "q_max": 20, "block": "8x8x16", "ssim_weight": 0},
        {"name": "vafa_opt", "q_max": 20},
        {"name": "pgd", "eps": "8/255", "organs": [[1, 2]], "target": {"erase": 1}},
    ],
    ids=lambda attack: attack["name"],
)
def test_an_entry_in_a_job_makes_the_same_cells(attack: dict[str, Any]) -> None:
    given = grid(attack)
    entry = counted_entry(given.cells[0].attack)
    assert entry is not None
    assert [cell.cell_id for cell in grid(entry).cells] == [cell.cell_id for cell in given.cells]
