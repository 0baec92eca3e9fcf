"""Runs units one after another in this process."""

import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from freqbench.engine.progress import Clock, Listener
from freqbench.engine.rows import with_surfaces
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.cells import Unit


def run(units: Sequence[Unit], spec: WorkerSpec, listener: Listener) -> None:
    """Carries out units in the schedule's order; the listener is told of each and gets its outcome."""
    worker, schedule, clock = Worker(spec), Schedule(units), Clock(worker=1)
    worker.keep = listener.keep
    clock.start(platform.node())
    while unit := schedule.take("serial"):
        listener.begin(unit)
        worker.advance = partial(listener.advance, unit)
        started = time.monotonic()
        made, masks = worker.run(unit, prefetch=schedule.next_unit("serial"))
        outcome, loaded = with_surfaces(unit, made, masks), made.load_seconds
        outcome = replace(outcome, load_seconds=loaded, device_seconds=time.monotonic() - started - loaded)
        clock.add(outcome)
        listener.tick([clock.facts(waits=False)])
        listener.take(outcome)
