"""A job with a model, a dataset and an attack of another package, and the rule that guards them."""

from pathlib import Path
from typing import Any

import pytest
from third_party.own_classes import OWN, units
from tiny_job import expanded, small
from toy.data import Balls

from freqbench.core.errors import UserError
from freqbench.engine.worker import Worker, WorkerSpec

ENTRIES = {"dataset": "datasets", "model": "models", "attack": "attacks"}
# What else a job must say where one of the three alone is the toy's: the phantom has six classes, its own two.
BESIDE: dict[str, dict[str, Any]] = {
    "dataset": {},
    "attack": {},
    "model": {"models": [{**OWN["models"][0], "args": {"classes": 6}}]},
}


@pytest.mark.parametrize("foreign", ENTRIES)
def test_each_is_refused_without_trust_in_one_line_that_says_why(foreign: str) -> None:
    key = ENTRIES[foreign]
    with pytest.raises(UserError) as caught:
        expanded(small(**{key: OWN[key]}))
    path = OWN[key][0].get("loader") or OWN[key][0].get("arch") or OWN[key][0]["name"]
    text = str(caught.value)
    assert text.startswith(f"job.yaml: {key}[0]")
    assert f"{path}: needs --trust-code (or trust_code: true in the job), as its code can do all that you can" in text
    assert "\n" not in text


def test_nothing_is_imported_without_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "booby.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for key, name in (("datasets", "loader"), ("models", "arch"), ("attacks", "name")):
        with pytest.raises(UserError, match="booby:Trap: needs --trust-code"):
            expanded(small(**{key: [{**OWN[key][0], name: "booby:Trap"}]}))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        ("dataset", "balls: needs --trust-code"),
        ("attack", "walk: needs --trust-code"),
        ("model", "tiny: toy.net:Tiny: needs --trust-code"),
    ],
)
def test_a_worker_that_is_not_told_to_trust_makes_failed_rows(foreign: str, reason: str) -> None:
    (unit, *_) = units(**{key: small()[key] for what, key in ENTRIES.items() if what != foreign} | BESIDE[foreign])
    outcome, masks = Worker(WorkerSpec(run_id="r", metrics=("dsc",), threads=1)).run(unit)
    (row,) = outcome.records
    assert (row["status"], masks) == ("failed", None)
    assert row["error"].startswith(reason)


def test_a_worker_that_is_not_told_to_trust_reads_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Balls, ref: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Balls, "native", read)
    (own,), (foreign, *_) = list(expanded(small())[1].units()), units()
    worker = Worker(WorkerSpec(run_id="r", metrics=("dsc",), threads=1))
    outcome, _ = worker.run(own, prefetch=foreign)
    assert not outcome.failed
    assert worker._cases._coming == {}
