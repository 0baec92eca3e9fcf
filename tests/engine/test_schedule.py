"""The order of units."""

from itertools import groupby

from tiny import expanded, job

from freqbench.engine.schedule import in_order


def test_a_model_at_a_time_and_within_it_a_case_at_a_time() -> None:
    _, grid = expanded(job())
    units = in_order(list(grid.units())[::-1])
    assert len(list(groupby(unit.cell.source.name for unit in units))) == 2
    assert len(list(groupby((unit.cell.source.name, unit.ref.case_id) for unit in units))) == 4


def test_the_longest_of_a_case_comes_first() -> None:
    _, grid = expanded(job())
    assert [unit.passes for unit in in_order(list(grid.units()))[:3]] == [16, 16, 8]


def test_nothing_is_lost_or_doubled() -> None:
    _, grid = expanded(job())
    units = list(grid.units())
    assert sorted(map(id, in_order(units))) == sorted(map(id, units))


def test_the_model_with_most_work_comes_first() -> None:
    _, grid = expanded(job())
    units = [unit for unit in grid.units() if unit.cell.source.name == "b" or unit.cell.attack.name == "fgsm"]
    assert in_order(units)[0].cell.source.name == "b"
