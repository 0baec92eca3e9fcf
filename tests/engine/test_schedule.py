"""The order of units."""

from dataclasses import replace
from itertools import groupby

import pytest
from engine.cases import grid_of
from tiny_job import job

from freqbench.engine.schedule import Schedule
from freqbench.job.cells import Unit


def all_units() -> list[Unit]:
    return list(grid_of(job()).units())


def take(schedule: Schedule, worker: str) -> Unit:
    unit = schedule.take(worker)
    assert unit is not None
    return unit


def taken(schedule: Schedule, worker: str = "w") -> list[Unit]:
    return list(iter(lambda: schedule.take(worker), None))


def places(units: list[Unit]) -> list[tuple[str, str]]:
    of_units = [(unit.cell.source.name, unit.ref.case_id) for unit in units]
    return [place for place, _ in groupby(of_units)]


def test_worker_does_a_model_and_a_case_at_a_time() -> None:
    units = taken(Schedule(all_units()[::-1]))
    assert (len(list(groupby(unit.cell.source.name for unit in units))), len(places(units))) == (2, 4)


def test_longest_unit_comes_first_after_a_short_one() -> None:
    units = all_units()
    first = taken(Schedule(units))[:3]
    expected = [min(unit.passes for unit in units), 16, 16]
    assert [unit.passes for unit in first] == expected
    two = [min(units, key=lambda unit: unit.passes), first[1]]
    assert max(unit.passes for unit in two) == taken(Schedule(two))[0].passes, "a grid that is about to end"


def test_the_schedule_loses_and_doubles_no_unit() -> None:
    units = all_units()
    schedule = Schedule(all_units())
    assert len(schedule) == len(units)
    done = taken(schedule)
    keys = [unit.cell.key(unit.ref, unit.targets[0]) for unit in done]
    assert (sorted(keys), len(schedule)) == (sorted(unit.cell.key(unit.ref, unit.targets[0]) for unit in units), 0)


def test_two_workers_begin_on_two_models_or_on_two_cases_of_one() -> None:
    schedule = Schedule(all_units())
    of_one = [unit for unit in all_units() if unit.cell.source.name == "a"]
    assert {unit.cell.source.name for worker in "vw" if (unit := schedule.take(worker))} == {"a", "b"}
    schedule = Schedule(of_one)
    assert {unit.ref.case_id for worker in "vw" if (unit := schedule.take(worker))} == {"phantom_2000", "phantom_2001"}


def test_a_worker_without_a_model_helps_where_most_is_left() -> None:
    units = all_units()
    schedule = Schedule([unit for unit in units if unit.cell.source.name == "a"] + units[-1:])
    first = [schedule.take(worker) for worker in ("u", "v", "w")]
    assert [unit.cell.source.name for unit in first if unit] == ["a", "a", "a"], "the other model has one short unit"


def test_the_next_unit_is_known_and_nothing_is_taken() -> None:
    schedule = Schedule(all_units())
    seen = schedule.next_unit("w")
    assert len(schedule) == 12
    unit = take(schedule, "w")
    assert seen is unit
    assert Schedule([]).next_unit("w") is None


@pytest.mark.parametrize("number", range(1, 17))
def test_next_unit_is_one_that_is_taken_whatever_is_left_of_grid(number: int) -> None:
    schedule = Schedule(all_units()[:number])
    for turn in range(number):
        worker = f"worker {turn % 5}"
        following = schedule.next_unit(worker)
        assert schedule.take(worker) is following


def test_a_unit_that_is_put_back_comes_behind_its_case() -> None:
    schedule = Schedule(all_units())
    unit = take(schedule, "w")
    schedule.put_back(unit)
    order = taken(schedule)
    assert order[2] is unit, "of three units of its case"
    assert len(order) == 12


def test_the_last_unit_that_is_put_back_is_taken_again() -> None:
    schedule = Schedule(all_units()[:1])
    unit = take(schedule, "v")
    assert schedule.take("w") is None
    schedule.put_back(unit)
    assert schedule.take("w") is unit


def test_a_worker_that_left_counts_no_more() -> None:
    schedule = Schedule(all_units()[:-2])
    first = take(schedule, "v")
    schedule.leave("v")
    second = take(schedule, "w")
    assert second.cell.source.name == first.cell.source.name, "the same model has again most work left a worker"


def with_clean() -> tuple[list[Unit], list[Unit]]:
    """Clean units, one a source and case, and the attacks after them."""
    units = all_units()
    clean = {(unit.cell.source.name, unit.ref.case_id): replace(unit, is_clean=True) for unit in units}
    return list(clean.values()), units


def test_attacks_wait_until_every_clean_unit_has_ended() -> None:
    clean, units = with_clean()
    schedule = Schedule([*units, *clean])
    first = taken(schedule)
    assert sorted(map(id, first)) == sorted(map(id, clean))
    for unit in first[:-1]:
        schedule.end(unit)
        assert schedule.take("v") is None
    assert len(schedule) == len(units)
    schedule.end(first[-1])
    assert sorted(map(id, taken(schedule))) == sorted(map(id, units))


def test_clean_unit_put_back_holds_attacks_up_until_it_ends() -> None:
    clean, units = with_clean()
    schedule = Schedule([*clean, *units])
    *others, lost = taken(schedule)
    for unit in others:
        schedule.end(unit)
    schedule.put_back(lost)
    assert schedule.take("v") is lost
    assert schedule.take("w") is None
    schedule.end(lost)
    assert schedule.take("w") is not None


def test_a_worker_attacks_first_the_cases_that_it_has_predicted() -> None:
    """Two workers predicted one case each of one source."""
    clean, units = with_clean()
    clean = [unit for unit in clean if unit.cell.source.name == "a"]
    schedule = Schedule([*clean, *(unit for unit in units if unit.cell.source.name == "a")])
    predicted = {worker: schedule.take(worker) for worker in "vw"}
    for unit in clean:
        schedule.end(unit)
    for worker in "vw":
        schedule.leave(worker)
    for worker in "wv":
        unit = take(schedule, worker)
        before = predicted[worker]
        assert before is not None
        assert unit.ref.case_id == before.ref.case_id
