"""What a run says of itself where there is no terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from tiny import expanded, small

from freqbench.engine import progress
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
