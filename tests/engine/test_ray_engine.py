"""Ray gives the rows that the serial engine gives, whatever dies on the way."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attacks.examples import entry
from engine.cases import CUBE, run_serially, units_of
from engine.faults import Faulty, add_attack
from engine.ray_session import ray_session, run_by_ray
from third_party.own_classes import units as foreign_units
from tiny_job import Collector, job, results, small

from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.engine import retry
from freqbench.engine.ray import ray_engine, ray_workers
from freqbench.engine.resources import Pool
from freqbench.engine.rows import Outcome
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit

CASES = {**CUBE, "cases": 3}
METRICS = ("dsc", "hd95", "ssim", "psnr")
FEW = ("pgd", "vafa", "sa2_2d", "almaprox", "square", "bases", "autoattack", "faa", "corruption")  # one of each kind


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(4):
        yield


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> None:
    add_attack(monkeypatch, Faulty)


def with_fault(place: Path, fault: str, times: int = 1, good: list[Unit] | None = None, **more: Any) -> list[Unit]:
    """Good units, four where none are given, and one with a fault."""
    place.mkdir()
    faulty = {"name": "faulty", "place": str(place), "fault": fault, "times": times, **more}
    four = [{"name": "fgsm", "eps": ["4/255", "6/255", "8/255", "10/255"]}] if good is None else []
    return [*(good or []), *units_of(small(attacks=[*four, faulty]))]


@pytest.mark.integration
def test_rows_are_the_serial_engines_and_a_killer_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of some attacks and of somebody else's package, on one window each."""
    monkeypatch.setattr(retry, "TRIES", 1)
    phantom = CUBE
    good = units_of(job(attacks=list(map(entry, FEW)), datasets=[phantom], targets=["a"]))
    require_serial_rows(tmp_path / "faults", good + foreign_units(), workers=2)


def require_serial_rows(place: Path, good: list[Unit], workers: int) -> None:
    """Holds Ray's outcomes of good units, beside one that always kills its worker, to those of the serial engine."""
    outcomes = run_by_ray(with_fault(place, "die", 99, good), METRICS, workers).outcomes
    (failed,) = [outcome for outcome in outcomes if outcome.failed]
    (row,) = failed.records
    assert (row["attack"], row["status"], row["dsc"]) == ("faulty", "failed", None)
    assert row["error"].startswith("its worker died (ActorDiedError: ")
    assert row["error"].endswith(f", {retry.TRIES} times")
    assert len(list(place.iterdir())) in (retry.TRIES, retry.TRIES + 1)  # one more where another unit shared the worker
    kept = [outcome for outcome in outcomes if not outcome.failed]
    serial = run_serially(good, metrics=METRICS)
    assert (results(kept), glimpses(kept)) == (results(serial), glimpses(serial))


def glimpses(outcomes: Sequence[Outcome]) -> set[str]:
    """The worst of each cell, whichever worker drew it."""
    drawn = sorted((each.glimpse for each in outcomes if each.glimpse), key=lambda glimpse: glimpse.drop)
    worst = {glimpse.cell_id: glimpse for glimpse in drawn}
    return {glimpse.name for glimpse in worst.values()}


@pytest.mark.slow
def test_units_that_share_a_dying_worker_are_tried_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker and one try; PGD begins, as it takes longest. All units but the one that kills are stored."""
    monkeypatch.setattr(retry, "TRIES", 1)
    monkeypatch.setattr(ray_engine, "SHORT_S", 1000)
    attacks = [{"name": "pgd", "steps": 3, "eps": 0.1}, {"name": "fgsm", "eps": [0.001 * i for i in range(1, 21)]}]
    units = with_fault(tmp_path / "faults", "die", 99, good=units_of(small(attacks=attacks)))
    listener = run_by_ray(units, METRICS, workers=1)
    assert [each.records[0]["attack"] for each in listener.outcomes if each.failed] == ["faulty"]
    assert (len(listener.outcomes), len(list((tmp_path / "faults").iterdir()))) == (len(units), 2)
    (doubt,) = [text for text in listener.said if text.endswith("each is tried again, alone")]
    assert "faulty on a, phantom_2000" in doubt


@pytest.mark.integration
def test_code_that_ends_its_worker_fails_as_if_serial(tmp_path: Path) -> None:
    units = with_fault(tmp_path / "exits", "exit")
    listener = run_by_ray(units, METRICS, workers=1)
    assert [outcome.errors for outcome in listener.outcomes if outcome.errors] == [["SystemExit: 3"]]
    assert not [text for text in listener.said if "died" in text]
    assert results(listener.outcomes) == results(run_serially(units, metrics=METRICS))


@pytest.mark.integration
def test_a_killed_worker_and_a_hung_attack_cost_nothing_but_time(tmp_path: Path) -> None:
    units = with_fault(tmp_path / "dies", "die", good=with_fault(tmp_path / "hangs", "hang"))
    listener = run_by_ray(units, METRICS, workers=2, timeout=30)
    assert len(list((tmp_path / "dies").iterdir())) == 1
    assert [text for text in listener.said if "faulty on a, phantom_2000" in text and ": its worker died" in text]
    assert [text for text in listener.said if "it took longer than case_timeout = 30 s: it is tried again" in text]
    assert results(listener.outcomes) == results(run_serially(units, metrics=METRICS))


@pytest.mark.integration
def test_death_in_a_clean_prediction_is_survived(tmp_path: Path) -> None:
    place = tmp_path / "dies"
    entry = {"name": "m", "arch": "engine.faults:Dying", "checkpoint": "random", "args": {"place": str(place)}}
    with trusting():
        units = units_of(small(models=[{**entry, "roi": [16, 16, 16]}], datasets=[CASES], trust_code=True))
    clean = [replace(unit, is_clean=True) for unit in units]
    place.mkdir()
    listener = run_by_ray([*clean, *units], METRICS, workers=2)
    assert [path.name for path in place.iterdir()] == ["fault-0"]
    assert any(text.startswith("clean prediction of ") and "tried again" in text for text in listener.said)
    assert [bool(outcome.clean) for outcome in listener.outcomes] == [True] * 3 + [False] * 3
    for outcome in listener.outcomes:
        assert not any("error" in facts for facts in outcome.clean)
    assert not any(outcome.errors for outcome in listener.outcomes)


class Mender(Collector):
    """Makes room as soon as it hears that there is none."""

    def __init__(self, obstacle: Path) -> None:
        super().__init__()
        self.obstacle = obstacle

    def warn(self, text: str) -> None:
        super().warn(text)
        self.obstacle.unlink(missing_ok=True)


@pytest.mark.slow
def test_waits_and_the_share_of_a_unit_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers where there is room for one; then a file lies where the store's folder should be."""
    for module, name, seconds in (
        *((ray_workers, name, 1.0) for name in ("WAITING_S", "WAITING_AGAIN_S")),
        *((ray_engine, "LONG_S", 0.0), (ray_engine, "TICK_S", 0.2)),
    ):
        monkeypatch.setattr(module, name, seconds)
    (tmp_path / "out").touch()
    units = with_fault(tmp_path / "faults", "slow", good=units_of(small()))
    listener = Mender(tmp_path / "out")
    volumes = str(tmp_path / "out" / "volumes")
    run_by_ray(units, ("dsc",), workers=2, threads=3, batch=1, listener=listener, volumes=volumes)
    assert "waiting for Ray: 1 of 2 workers have not started: each needs 3 CPU; free: 1 CPU" in listener.said
    assert [text for text in listener.said if "the store refuses files (NotADirectoryError: Not a dir" in text]
    assert results(listener.outcomes) == results(run_serially(units, metrics=("dsc",), threads=3))
    assert len(list(tmp_path.glob("out/volumes/*/*/attack.json"))) == 2
    told = [passes for name, passes in listener.passes if name == units[1].name]
    assert told == sorted(told)
    assert {4, 8, 12} <= set(told) <= {0, 2, 4, 6, 8, 10, 12, 14, 16}


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
