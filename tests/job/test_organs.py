"""Organs, target rules and channels in a job file: names become each dataset's own indices, lists multiply."""

from pathlib import Path
from typing import Any

import pytest
from data import downloads
from tiny_job import JOB, SHAPE, expanded, small

from freqbench.job.cells import Cell


def cells(dataset: dict[str, Any] | None = None, **parameters: Any) -> tuple[Cell, ...]:
    content = small(attacks=[{"name": "bim", "eps": "8/255", **parameters}])
    return expanded({**content, "datasets": [dataset] if dataset else content["datasets"]})[1].cells


RULES = ["least-likely", "next-class", {"swap": {"spleen": "liver"}}, {"erase": "aorta"}]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("organs", [["spleen", "liver"], ["aorta"], None], [(1, 2), (4,), None]),
        ("target", RULES, ["least-likely", "next-class", ("swap", 1, 2), ("erase", 4)]),
    ],
)
def test_lists_of_organs_and_rules_multiply_into_cells(name: str, values: list[Any], expected: list[Any]) -> None:
    assert [getattr(cell.attack, name) for cell in cells(**{name: values})] == expected


def test_names_and_indices_are_one_cell() -> None:
    assert len(cells(organs=[["liver"], [1]], target=[{"swap": {"liver": "spleen"}}, {"swap": {2: 1}}])) == 1


def test_radii_of_schedule_and_members_of_ensemble_are_one_value() -> None:
    radii = {"name": "apgd", "eps": "8/255", "eps_schedule": [[[2, 0.3], [1.5, 0.3], [1, 0.4]]]}
    members = {"name": "autoattack", "eps": "8/255", "members": [["apgd-ce", "square"]], "organs": [["liver"]]}
    scheduled, joined = expanded(small(attacks=[radii, members]))[1].cells
    assert scheduled.attack.eps_schedule == ((2, 0.3), (1.5, 0.3), (1, 0.4))
    assert (joined.attack.members, joined.attack.organs) == (("apgd-ce", "square"), (1,))


def test_channels_are_one_value_in_a_list_of_their_own() -> None:
    four = {"name": "phantom", "loader": "stand_in", "shape": SHAPE, "channels": 4, "cases": 1}
    assert [cell.attack.channels for cell in cells(four, channels=[[2, 0], [1], 3, None])] == [(0, 2), (1,), (3,), None]
    assert len(cells(four, channels=[0, [0]])) == 1


def test_a_step_is_told_apart_by_what_is_written() -> None:
    """A quarter of 8/255 is 2/255 here, and another number at another budget."""
    word, number = cells(step_size=["eps/4", "2/255", "eps/4"])
    assert (word.attack.step_size, number.attack.step_size) == ("eps/4", 2 / 255)
    assert word.cell_id != number.cell_id


def test_a_parameter_at_its_default_gives_the_same_cell() -> None:
    own = {"loss": "dicece", "organs": None, "target": None, "restarts": 1, "keep": "last", "scope": "window"}
    own |= {"channels": None}
    assert cells(**own)[0].cell_id == cells()[0].cell_id


def test_a_name_stands_for_each_dataset_s_own_index(tmp_path: Path) -> None:
    downloads.decathlon(tmp_path, {"validation": ["c"]}, labels=("background", "spleen", "liver"))
    folder = {"name": "folder", "loader": "decathlon", "root": str(tmp_path), "split": "validation"}
    datasets = [JOB["datasets"][0], folder]
    attack = {"name": "bim", "eps": 0.1, "organs": [["liver"]], "target": {"erase": "liver"}}
    _, grid = expanded(small(datasets=datasets, attacks=[attack]))
    parameters = [(cell.dataset.name, cell.attack.organs, cell.attack.target) for cell in grid.cells]
    assert parameters == [("phantom", (1,), ("erase", 1)), ("folder", (2,), ("erase", 2))]
