"""The makespan of a grid of known durations, as a ratio to what no schedule beats."""

import random

import pytest
from tools.benchmarks.known import NUM_MODELS, grid, lower_bound, simulated, steps_of

from freqbench.engine.schedule import Schedule
from freqbench.job.cells import Unit

LOAD = 1.0
"""Units of a model, where the shortest takes 1 and the longest 27."""
WORKERS = [1, 2, 5, 12, 31]


@pytest.fixture(scope="module")
def known() -> list[Unit]:
    return grid()


@pytest.mark.parametrize("workers", WORKERS)
def test_a_grid_ends_within_3_percent_of_what_no_schedule_beats(known: list[Unit], workers: int) -> None:
    """Also where models differ fourfold and units by a fifth, which the schedule does not know: it counts passes."""
    assert len(known) == 4 * 8 * 12
    rng, factor = random.Random(1), {"m1": 1.0, "m2": 1.5, "m3": 2.0, "m4": 4.0}
    exact = {id(unit): float(steps_of(unit)) for unit in known}
    rough = {id(unit): exact[id(unit)] * factor[unit.cell.source.name] * rng.uniform(0.8, 1.2) for unit in known}
    for took in (exact, rough):
        seconds, loads = simulated(known, workers, LOAD, lambda unit, took=took: took[id(unit)])
        bound = lower_bound(list(took.values()), workers, LOAD)
        assert bound - 1e-9 <= seconds <= 1.03 * bound
        assert took is rough or loads <= 2 * workers + NUM_MODELS, "a worker changes its model once, about"


def test_the_longest_unit_of_a_model_comes_first_near_the_end(known: list[Unit]) -> None:
    """Two workers on three cases of one model: the third case's longest is not left until two cases are done."""
    model = [unit for unit in known if unit.cell.source.name == "m1"]
    cases = sorted({unit.ref.case_id for unit in model})[:3]
    schedule = Schedule([unit for unit in model if unit.ref.case_id in cases])
    order = [unit for _ in range(12) for worker in "vw" if (unit := schedule.take(worker))]
    longest = max(index for index, unit in enumerate(order) if steps_of(unit) == 27)
    assert longest < 10, "eight units of 27 to 8 steps come first, not all sixteen of two cases"
    assert len(order) == 24
