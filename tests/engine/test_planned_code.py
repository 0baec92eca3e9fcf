"""Workers compute what was planned, and rows say if they rest on something without identity."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from third_party.own_classes import OWN, TRUST, module, units
from tiny_job import execute, expanded, small

from freqbench.core import code
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.cells import Unit
from freqbench.job.plan import make_plan
from freqbench.results import Store

ATTACK = """
from dataclasses import dataclass
from pathlib import Path
import helper
from toy.attack import Walk

@dataclass(frozen=True, kw_only=True)
class Two(Walk):
    name = "two"
    def run(self, task):
        return task.clean + helper.factor() * (super().run(task) - task.clean)
"""
HELPER = "RATE = 1.0\ndef factor(): return RATE\n"


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper.py").write_text(HELPER)
    module(tmp_path, ATTACK)
    import helper

    yield helper
    for name in ("helper", "written"):
        sys.modules.pop(name, None)


def two() -> dict[str, Any]:
    attacks = [{"name": "written:Two", "eps": "8/255", "steps": 2}]
    datasets = [{**OWN["datasets"][0], "cases": 1}]
    return small(**{**OWN, **TRUST, "attacks": attacks, "datasets": datasets})


def errors(unit: Unit, planner: str) -> list[str]:
    """Complaints of a worker whose work a process with this token planned."""
    spec = WorkerSpec(run_id="r", metrics=("dsc",), trust_code=True, planner=planner)
    here = code.run_token()
    try:
        return Worker(spec).run(unit)[0].errors
    finally:
        code.join_run(here)


def rows(out: Path) -> list[dict[str, Any]]:
    execute(two(), out)
    return Store(str(out)).records().to_pylist()


def left(out: Path) -> int:
    return make_plan(expanded(two())[1], Store(str(out)).covered()).num_todo


def test_a_worker_refuses_an_attack_that_is_not_what_was_planned(helper: ModuleType) -> None:
    (unit, *_) = units(attacks=two()["attacks"])
    assert errors(unit, "driver") == []
    helper.RATE = 0.5
    assert errors(unit, "driver") == ["two: its code is not what was planned with: plan anew"]


@pytest.mark.parametrize(
    ("name", "replaced"), [("balls", {"datasets": [{"name": "balls", "loader": "written:Own"}]}), ("tiny", {})]
)
def test_unplanned_data_are_refused(name: str, replaced: dict[str, Any], helper: ModuleType, tmp_path: Path) -> None:
    """Their helper changes in a worker's process, as it does where a file is edited and a worker dies."""
    bodies = {"balls": "from toy.data import Balls\nclass Own(Balls):\n    rate = staticmethod(helper.factor)\n"}
    bodies["tiny"] = (
        "from toy.net import Tiny\nclass Own(Tiny):\n    def forward(self, x): return RATE * super().forward(x)\n"
    )
    module(tmp_path, f"import helper\nfrom helper import RATE\n{bodies[name]}")
    if name == "tiny":
        replaced = {"models": [{**OWN["models"][0], "arch": "written:Own"}]}
    (unit, *_) = units(**replaced)
    assert errors(unit, "driver") == []
    sys.modules["written"].RATE, helper.RATE = 0.5, 0.5  # type: ignore[attr-defined]
    assert [error.partition(":")[0] for error in errors(unit, "driver")] == [name]


def test_rows_of_code_reading_elsewhere_are_computed_anew(helper: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "rate.txt").write_text("1.0")
    (tmp_path / "helper.py").write_text(
        f"from pathlib import Path\nFOLDER = Path({str(tmp_path)!r})\n"
        "def factor(): return float((FOLDER / ('rate' + '.txt')).read_text())\n"
    )
    importlib.reload(helper)
    (row,) = rows(tmp_path / "out")
    assert row["status"] == "ok"
    assert (
        row["caution"]
        == f"no later run takes it over: its code reads {tmp_path / 'rate.txt'}, which no identity covers"
    )
    assert left(tmp_path / "out") == 1


def test_unidentified_rows_are_made_anew(helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper.py").write_text(
        "import io\nRATE = io.StringIO('1')\ndef factor(): return float(RATE.getvalue())\n"
    )
    importlib.reload(helper)
    (row,) = rows(tmp_path / "out")
    assert row["caution"].startswith("no later run takes it over: nothing tells a _io.StringIO apart")
    monkeypatch.setattr(code, "_run", "the next")
    assert left(tmp_path / "out") == 1


def test_rows_of_code_with_identity_stay(helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = rows(tmp_path / "out")
    assert row["caution"] is None
    monkeypatch.setattr(code, "_run", "the next")
    assert left(tmp_path / "out") == 0
    helper.RATE = 0.5
    assert left(tmp_path / "out") == 1
