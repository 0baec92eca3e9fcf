"""What a run says of itself where there is no terminal, and where its workers' time goes."""

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from tiny import expanded, small

from freqbench.engine import progress
from freqbench.engine.progress import Clock
from freqbench.engine.rows import Outcome
from freqbench.job.plan import make_plan


def test_how_long_it_takes_is_told_by_the_passes_of_the_units_that_are_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """170 of 220 passes: 20 and 5 steps of two windows forward and back, and 10 to score each."""
    said, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    plan = make_plan(expanded(small(attacks=[{"name": "pgd", "eps": 0.1, "steps": [20, 5]}]))[1], {})
    shown = progress.RunProgress(plan, Console(file=said, width=80))
    clock[0] = 12.0
    shown.store(0)
    first = plan.units[0]
    cell_id, case_key, _ = first.cell.key(first.ref, first.targets[0])
    shown.finish(SimpleNamespace(failed=False, records=[{"cell_id": cell_id, "case_key": case_key}]))  # type: ignore[arg-type]
    clock[0] = 30.0
    shown.store(1)
    assert said.getvalue().splitlines() == [
        "0 of 2 records stored, 12 s",
        "1 of 2 records stored, 30 s, about 9 s left",
    ]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as one number that a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def outcome(load: float, device: float) -> Outcome:
    return Outcome(records=(), class_records=(), load_seconds=load, device_seconds=device)


def seconds(clock: Clock, waits: bool) -> tuple[float, ...]:
    facts = clock.facts(waits)
    return tuple(facts[f"{name}_seconds"] for name in ("load", "device", "idle"))


def test_idle_is_what_load_and_device_leave_of_the_time_since_it_was_ready(at: list[float]) -> None:
    """A worker that waits is idle; of one that works it is not known yet."""
    clock = Clock(worker=3)
    clock.start("node-a")
    at[0] = 104.0
    assert seconds(clock, waits=True) == (0, 0, 4)
    assert seconds(clock, waits=False) == (0, 0, 0)
    at[0] = 110.0
    clock.add(outcome(2, 5))
    at[0] = 130.0
    clock.add(outcome(0, 18))
    assert clock.facts(waits=False)["units"] == 2
    assert seconds(clock, waits=False) == (2, 23, 5)


def test_what_died_with_a_worker_and_the_time_until_it_is_ready_again_are_not_counted(at: list[float]) -> None:
    clock = Clock(worker=1)
    clock.start("node-a")
    at[0] = 110.0
    clock.add(outcome(1, 8))
    at[0] = 200.0
    assert seconds(clock, waits=False) == (1, 8, 1)
    clock.start("node-b")
    at[0] = 203.0
    clock.add(outcome(1, 2))
    assert seconds(clock, waits=False) == (2, 10, 1)
    assert clock.facts(waits=False)["node"] == "node-b"
