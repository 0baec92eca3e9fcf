"""Workers that die in reading or scoring, and every attack on Ray: rows are those of the serial engine."""

from pathlib import Path
from typing import ClassVar

import pytest
from attacks.examples import EXAMPLES, entry
from engine.cases import run_serially, units_of
from engine.faults import die, happens
from engine.ray_session import run_by_ray
from engine.test_ray_engine import METRICS, faults, require_serial_rows, session
from engine.test_saved_volumes import ONE, score
from third_party.own_classes import units as foreign_units
from tiny_job import SHAPE, execute, job, results, rows, save_weights, small

from freqbench.attacks.corruption import KINDS
from freqbench.core.input_space import Preprocess
from freqbench.core.names import KNOWN
from freqbench.core.types import Case, CaseRef
from freqbench.data import DATASETS
from freqbench.data.loaders.phantom import Phantom
from freqbench.results import Store

__all__ = ["faults", "session"]

pytestmark = pytest.mark.chaos


class Spacing(tuple[float, float, float]):
    """A spacing that kills the process it is sent to, or cannot be read there, the first time."""

    place: str
    fault: str

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (tuple(self), self.place, self.fault)


def _arrived(values: tuple[float, float, float], place: str, fault: str) -> tuple[float, float, float]:
    if happens(place, 1):
        if fault == "unreadable":
            raise AttributeError("partially initialized module")
        die()
    return values


class FaultyPhantom(Phantom):
    """Phantoms whose reading or scoring goes wrong."""

    loader: ClassVar[str] = "faulty"

    place: str
    fault: str

    def load(self, ref: CaseRef, space: Preprocess | None = None) -> Case:
        if self.fault == "load" and happens(self.place, 1):
            die()
        case = super().load(ref, space)
        if self.fault in ("score", "unreadable"):
            spacing = Spacing(case.spacing)
            spacing.place = self.place
            spacing.fault = self.fault
            object.__setattr__(case, "spacing", spacing)
        return case


@pytest.mark.parametrize("fault", ["load", "score", "unreadable"])
def test_process_that_dies_costs_nothing_but_time(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.job.schema.DATASETS", {**DATASETS, "faulty": FaultyPhantom})
    monkeypatch.setitem(KNOWN, "datasets", (*KNOWN["datasets"], "faulty"))  # type: ignore[arg-type]
    place = tmp_path / "faults"
    place.mkdir()
    dataset = {"name": "phantom", "loader": "faulty", "shape": SHAPE, "cases": 2, "place": str(place), "fault": fault}
    units = units_of(job(datasets=[dataset]))
    listener = run_by_ray(units, METRICS, workers=2)
    assert [path.name for path in place.iterdir()] == ["fault-0"]
    assert bool(listener.said) is (fault != "unreadable")
    assert results(listener.outcomes) == results(run_serially(units, metrics=METRICS))


def test_rows_of_every_attack_are_those_of_the_serial_engine(tmp_path: Path) -> None:
    """On many windows, beside a unit that always kills its worker."""
    more = {name: EXAMPLES[name] | {"control": ["none", "random"]} for name in ("vafa", "sa2")}
    more["corruption"] = {"kind": [*KINDS], "severity": 3}
    entries = [entry(name, **more.get(name, {})) for name in EXAMPLES]
    good = units_of(job(attacks=entries, datasets=[{"name": "phantom", "shape": SHAPE, "cases": 1}], targets=["a"]))
    require_serial_rows(tmp_path / "faults", good + foreign_units(), workers=3)


def test_further_checkpoint_is_scored_by_ray_as_run_would_have(tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    save_weights(path, seed=5)
    execute(small(**ONE), tmp_path / "scored")
    two_workers = small(**{**ONE, "resources": {"workers": 2, "threads": 1}})
    assert score(two_workers, tmp_path / "scored", [str(path)]).num_new == 2
    assert Store(str(tmp_path / "scored")).runs()[-1]["engine"]["name"] == "ray"
    whole = small(**ONE, targets=["a", "later"])
    whole["models"].append({"name": "later", "checkpoint": str(path), "expected_dice": 0.01})
    execute(whole, tmp_path / "run")
    expected = {key: row for key, row in rows(tmp_path / "run").items() if row["source_model"] == "'a'"}
    assert rows(tmp_path / "scored") == expected
    assert len(Store(str(tmp_path / "scored")).job()["index"]["cells"][0]["targets"]) == 2
