"""The serial engine: one worker in this process, one unit after another."""

from collections.abc import Sequence

from freqbench.engine.listener import Listener
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import Worker, WorkerSpec, with_surfaces
from freqbench.grid import Unit


def run(units: Sequence[Unit], spec: WorkerSpec, listener: Listener) -> None:
    """Carry out units.

    Args:
        units: in any order.
        spec: of the worker.
        listener: told of every unit, and given what came of it.
    """
    worker, schedule = Worker(spec), Schedule(units)
    while unit := schedule.take("serial"):
        listener.begin(unit)
        outcome, masks = worker.run(unit, prefetch=schedule.next_unit("serial"))
        listener.take(with_surfaces(unit, outcome, masks))
