"""Ray gives the rows that the serial engine gives, whatever dies on the way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attacks.examples import EXAMPLES, entry
from engine.cases import run_serially, units_of
from engine.faults import Faulty, FaultyPhantom, add_attack
from engine.ray_session import ray_session, run_by_ray
from third_party.own_classes import units as foreign_units
from tiny_job import SHAPE, Collector, job, results, small

from freqbench.attacks import ATTACKS
from freqbench.attacks.corruption import KINDS
from freqbench.core.errors import UserError
from freqbench.core.names import KNOWN
from freqbench.data import DATASETS
from freqbench.engine import retry
from freqbench.engine.ray import ray_engine, ray_workers
from freqbench.engine.resources import Pool
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit

METRICS = ("dsc", "hd95", "ssim", "psnr")
FEW = ("pgd", "vafa", "sa2_2d", "almaprox", "square", "bases", "autoattack", "faa", "corruption")  # one of each kind
MORE = {name: EXAMPLES[name] | {"control": ["none", "random"]} for name in ("vafa", "sa2")}
MORE["corruption"] = {"kind": [*KINDS], "severity": 3}


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(4):
        yield


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> None:
    add_attack(monkeypatch, Faulty)
    monkeypatch.setattr("freqbench.job.schema.DATASETS", {**DATASETS, "faulty": FaultyPhantom})
    monkeypatch.setitem(KNOWN, "datasets", (*KNOWN["datasets"], "faulty"))  # type: ignore[arg-type]


def with_fault(place: Path, fault: str, times: int = 1, good: list[Unit] | None = None, **more: Any) -> list[Unit]:
    """Good units, four where none are given, and one with a fault."""
    place.mkdir()
    faulty = {"name": "faulty", "place": str(place), "fault": fault, "times": times, **more}
    four = [{"name": "fgsm", "eps": ["4/255", "6/255", "8/255", "10/255"]}] if good is None else []
    return [*(good or []), *units_of(small(attacks=[*four, faulty]))]


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.chaos)])
def test_rows_are_those_of_the_serial_engine_and_a_unit_that_always_kills_its_worker_is_a_failed_one(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units of some attacks and of somebody else's package; in the long form of every attack, and of many windows."""
    is_short = workers == 2
    monkeypatch.setattr(retry, "TRIES", workers - 1)
    names = FEW if is_short else ATTACKS
    entries = [entry(name, **({} if is_short else MORE.get(name, {}))) for name in names]
    shape = [16, 16, 16] if is_short else SHAPE
    phantom = {"name": "phantom", "shape": shape, "cases": 1}
    good = units_of(job(attacks=entries, datasets=[phantom], targets=["a"]))
    good += foreign_units()
    outcomes = run_by_ray(with_fault(tmp_path / "faults", "die", 99, good), METRICS, workers).outcomes
    (failed,) = [outcome for outcome in outcomes if outcome.failed]
    (row,) = failed.records
    assert (row["attack"], row["status"], row["dsc"]) == ("faulty", "failed", None)
    assert row["error"].startswith("its worker died (ActorUnavailableError: ")
    assert row["error"].endswith(f", {retry.TRIES} times")
    deaths = len(list((tmp_path / "faults").iterdir()))
    assert deaths in (retry.TRIES, retry.TRIES + 1)  # one more where another unit shared the worker
    kept = [outcome for outcome in outcomes if not outcome.failed]
    assert results(kept) == results(run_serially(good, metrics=METRICS))


@pytest.mark.integration
def test_a_worker_that_is_killed_in_an_attack_costs_nothing_but_time(tmp_path: Path) -> None:
    units = with_fault(tmp_path / "faults", "die")
    listener = run_by_ray(units, METRICS, workers=2)
    assert len(list((tmp_path / "faults").iterdir())) == 1
    assert [text for text in listener.said if "faulty on a, phantom_2000" in text and ": its worker died" in text]
    assert results(listener.outcomes) == results(run_serially(units, metrics=METRICS))


@pytest.mark.integration
def test_units_that_share_a_dying_worker_are_tried_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, one try, PGD first as the longest: whatever the worker has beside the unit that kills stays good."""
    monkeypatch.setattr(retry, "TRIES", 1)
    monkeypatch.setattr(ray_engine, "SHORT_S", 1000)
    attacks = [{"name": "pgd", "steps": 3, "eps": 0.1}, {"name": "fgsm", "eps": [0.001 * i for i in range(1, 21)]}]
    units = with_fault(tmp_path / "faults", "die", 99, good=units_of(small(attacks=attacks)))
    listener = run_by_ray(units, METRICS, workers=1)
    assert [each.records[0]["attack"] for each in listener.outcomes if each.failed] == ["faulty"]
    assert len(listener.outcomes) == len(units)
    assert len(list((tmp_path / "faults").iterdir())) == 2
    (doubt,) = [text for text in listener.said if text.endswith("each is tried again, alone")]
    assert "faulty on a, phantom_2000" in doubt


@pytest.mark.integration
def test_a_hung_attack_is_killed_and_tried_again(tmp_path: Path) -> None:
    units = with_fault(tmp_path / "faults", "hang")
    listener = run_by_ray(units, METRICS, workers=2, timeout=40)
    assert [text for text in listener.said if "it took longer than case_timeout = 40 s: it is tried again" in text]
    assert results(listener.outcomes) == results(run_serially(units, metrics=METRICS))


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["load", "score", "unreadable"])
def test_a_process_that_dies_in_loading_or_scoring_or_cannot_read_masks_costs_nothing_but_time(
    tmp_path: Path, fault: str
) -> None:
    place = tmp_path / "faults"
    place.mkdir()
    dataset = {"name": "phantom", "loader": "faulty", "shape": SHAPE, "cases": 2, "place": str(place), "fault": fault}
    units = units_of(job(datasets=[dataset]))
    listener = run_by_ray(units, METRICS, workers=2)
    assert [path.name for path in place.iterdir()] == ["fault-0"]
    assert bool(listener.said) is (fault != "unreadable")
    assert results(listener.outcomes) == results(run_serially(units, metrics=METRICS))


@pytest.mark.integration
def test_the_wait_for_ray_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers where there is room for one: the run goes on with that."""
    monkeypatch.setattr(ray_workers, "WAITING_S", 1.0)
    monkeypatch.setattr(ray_workers, "WAITING_AGAIN_S", 1.0)
    units = with_fault(tmp_path / "faults", "slow", eps=[0.01, 0.02, 0.03, 0.04])
    listener = run_by_ray(units, ("dsc",), workers=2, threads=3)
    assert "waiting for Ray: 1 of 2 workers have not started: each needs 3 CPU; free: 1 CPU" in listener.said
    assert len(listener.outcomes) == len(units)


@pytest.mark.integration
def test_a_worker_says_how_far_its_unit_is_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four windows of a second each, one after the other, with four passes each."""
    monkeypatch.setattr(ray_engine, "LONG_S", 0.0)
    monkeypatch.setattr(ray_engine, "TICK_S", 0.2)
    slow = with_fault(tmp_path / "faults", "slow", good=units_of(small(attacks=[{"name": "gn", "std": 0.1}])))[1:]
    listener = run_by_ray(slow, ("dsc",), workers=1, batch=1)
    assert {name for name, _ in listener.passes} == {slow[0].name}
    told = [passes for _, passes in listener.passes]
    assert told == sorted(told)
    assert {4, 8, 12} <= set(told) <= {0, 2, 4, 6, 8, 10, 12, 14, 16}


class Mender(Collector):
    """Makes room as soon as it hears that there is none."""

    def __init__(self, obstacle: Path) -> None:
        super().__init__()
        self.obstacle = obstacle

    def warn(self, text: str) -> None:
        super().warn(text)
        self.obstacle.unlink(missing_ok=True)


@pytest.mark.integration
def test_a_worker_with_refused_volumes_tells_waits_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file lies where the store's folder should be."""
    monkeypatch.setattr(ray_engine, "LONG_S", 0.0)
    (tmp_path / "out").touch()
    units, listener = units_of(small()), Mender(tmp_path / "out")
    run_by_ray(units, ("dsc",), workers=1, listener=listener, volumes=str(tmp_path / "out" / "volumes"))
    assert [text for text in listener.said if "the store refuses files (NotADirectoryError: Not a dir" in text]
    assert results(listener.outcomes) == results(run_serially(units, metrics=("dsc",)))
    assert list(tmp_path.glob("out/volumes/*/*/attack.json"))


@pytest.mark.integration
def test_workers_that_do_not_start_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "STARTS", 1)
    spec = WorkerSpec(run_id="r", metrics=METRICS, device="nonsense")
    listener = Collector()
    with pytest.raises(UserError, match="no worker starts: see the warnings above"):
        ray_engine.run(Schedule(units_of(small())), spec, Pool(workers=1, threads=1, gpus=0), listener)
    (warning,) = listener.said
    assert warning.startswith("worker 1 does not start, and the run goes on without it: ")
    assert "RuntimeError: Expected one of cpu, cuda" in warning
