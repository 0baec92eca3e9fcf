"""The serial engine: one worker in this process, one unit after another."""

from collections.abc import Callable, Sequence

from freqbench.engine.rows import Outcome
from freqbench.engine.schedule import in_order
from freqbench.engine.worker import Worker, WorkerSpec, with_surfaces
from freqbench.grid import Unit


def run(
    units: Sequence[Unit], spec: WorkerSpec, begin: Callable[[Unit], None], take: Callable[[Outcome], None]
) -> None:
    """Carry out units.

    Args:
        units: in any order.
        spec: of the worker.
        begin: told of a unit before it is taken up.
        take: given what came of it.
    """
    worker = Worker(spec)
    for unit in in_order(units):
        begin(unit)
        outcome, masks = worker.run(unit)
        take(with_surfaces(unit, outcome, masks))
