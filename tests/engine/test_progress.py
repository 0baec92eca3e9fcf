"""What a run says of itself where there is no terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from tiny import expanded, small

from freqbench.engine import progress
from freqbench.grid import make_plan


def test_how_long_it_takes_is_said_from_the_first_unit_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    plan = make_plan(expanded(small(attacks=[{"name": "fgsm", "eps": [0.1, 0.2, 0.3]}]))[1], {})
    shown = progress.RunProgress(plan, Console(file=said, width=80))
    clock[0] = 12.0
    shown.store(0)
    shown.finish(SimpleNamespace(failed=False))  # type: ignore[arg-type]
    clock[0] = 30.0
    shown.store(1)
    assert said.getvalue().splitlines() == [
        "0 of 3 records stored, 12 s",
        "1 of 3 records stored, 30 s, about 60 s left",
    ]
