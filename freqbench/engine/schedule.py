"""The order of units: pure, the same for every engine."""

from collections.abc import Sequence

from freqbench.grid import Unit


def in_order(units: Sequence[Unit]) -> list[Unit]:
    """Units as one worker takes them: a source model at a time (most work first), a case at a time, longest first.

    A model is loaded once and a case read once a model; clean predictions are made at the first unit of a case.
    """
    work: dict[str, int] = {}
    for unit in units:
        source = unit.cell.source.model_id
        work[source] = work.get(source, 0) + unit.passes

    def position(numbered: tuple[int, Unit]) -> tuple[int, str, str, str, int, int]:
        number, unit = numbered
        source = unit.cell.source.model_id
        return (-work[source], source, unit.cell.dataset.name, unit.ref.case_id, -unit.passes, number)

    return [unit for _, unit in sorted(enumerate(units), key=position)]
