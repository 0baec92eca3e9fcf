"""A worker: what it keeps, what it survives, what it leaves alone."""

import itertools
import json
import random
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from engine.cases import CUBE, run_all, run_serially, units_of
from engine.faults import add_attack
from tiny_job import job, noted, small
from torch import Tensor

from freqbench import models
from freqbench.attacks import Attack
from freqbench.attacks.core.task import Task
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import is_trusted
from freqbench.core.types import Case, CaseRef
from freqbench.data.loaders.phantom import Phantom
from freqbench.engine import attacking, saved_volumes, scoring
from freqbench.engine.rows import score_masks
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.models import loading
from freqbench.results import RECORDS, to_table


def make_worker(**changes: Any) -> Worker:
    return Worker(WorkerSpec(**{"run_id": "r", "metrics": ("dsc",), "threads": 1, "trust_code": True, **changes}))


@dataclass(frozen=True, kw_only=True)
class Fake(Attack):
    """An attack that a test misuses."""

    name: ClassVar[str] = "fake"
    threat_model: ClassVar[str] = "none"
    budget_name: ClassVar[str] = "level"
    level: float = 0.0
    fits: ClassVar[int] = 99
    batches: ClassVar[list[int]] = []

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 0

    def perturb(self, task: Task) -> Tensor:
        self.batches.append(len(task.clean))
        if self.level == 1:
            raise ZeroDivisionError("two\nlines")
        if len(task.clean) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return task.clean.clone()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    add_attack(monkeypatch, Fake)
    monkeypatch.setattr(Fake, "batches", [])
    monkeypatch.setattr(Fake, "fits", 99)
    return Fake


def test_models_cases_and_clean_predictions_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = noted(monkeypatch, loading, "load", lambda spec, *_: f"model {spec.name}")
    reads = noted(monkeypatch, Phantom, "load", lambda _, ref, space: f"case {ref.case_id}")
    predictions = noted(monkeypatch, models, "prediction", lambda *_: "predictions")
    run_all(job(datasets=[{**CUBE, "cases": 2}], metrics=["dsc"]))
    assert Counter(loads + reads + predictions) == {
        "model a": 1,
        "model b": 1,
        "case phantom_2000": 1,
        "case phantom_2001": 1,
        "predictions": 24 + 4,  # one a record, and one a case and target for the clean volume
    }


def test_an_attack_without_a_budget_has_none_in_its_row() -> None:
    (outcome,) = run_all(small(attacks=[{"name": "dfb_2d", "band": "low", "block": "4x8"}]))
    (record,) = to_table(RECORDS, outcome.records).to_pylist()
    assert (record["status"], record["budget_name"], record["budget"], record["eps_native"]) == ("ok", None, None, None)
    assert (record["threat_model"], record["seed"], json.loads(record["params"])["block"]) == ("none", None, [4, 8])


FAA = {"name": "faa", "bands": 8, "portion": 0.25, "steps": 1}


def test_reference_is_drawn_by_seed_and_case(monkeypatch: pytest.MonkeyPatch) -> None:

    def note(_: Any, model: Any, case: Any, seed: Any, batch: int, needs: Any, *more: Any) -> tuple[int, str, str]:
        return seed, case.ref.case_id, needs.reference.ref.case_id

    phantom = {"name": "phantom", "shape": [24, 20, 16], "cases": 2}
    units = units_of(small(attacks=[FAA], seeds=[0, 1, 2], datasets=[phantom]))
    seen = noted(monkeypatch, attacking, "attack_case", note)
    listed = noted(monkeypatch, Phantom, "whole_split", lambda dataset: dataset.name)
    run_serially(units, metrics=())
    assert listed == ["phantom"]
    dataset = Phantom(name="phantom", shape=(24, 20, 16))
    refs = {ref.case_id: ref for ref in dataset.refs()}
    assert {(seed, case) for seed, case, _ in seen} == {*itertools.product(range(3), list(refs)[:2])}
    assert all(other == dataset.other(refs[case], seed).case_id for seed, case, other in seen)


def test_a_step_of_pgd_is_twelve_frames_deep_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frame is `engines.serial`, the last `PGD.run`, which asks for the gradient."""
    stacks = list[list[str]]()
    gradient = Task.gradient

    def noted(task: Task, *args: Any) -> Tensor:
        frames = [(Path(frame.filename).name, frame.name) for frame in traceback.extract_stack()[:-1]]
        first = max(i for i, frame in enumerate(frames) if frame == ("engines.py", "serial"))
        stacks.append([f"{file}: {name}" for file, name in frames[first:]])
        return gradient(task, *args)

    monkeypatch.setattr(Task, "gradient", noted)
    run_serially(units_of(small(attacks=[{"name": "pgd", "eps": "8/255", "steps": 1}])), metrics=())
    assert stacks[0][-1] == "pgd.py: run"
    assert len(stacks[0]) <= 12, stacks[0]


def test_global_generators_and_gradient_mode_are_left_alone() -> None:
    (unit,) = units_of(small(attacks=[{"name": "pgd", "eps": "8/255", "steps": 1}], seeds=[1]))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    outcome, _ = make_worker().run(unit)
    assert not outcome.failed
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    assert torch.is_grad_enabled()


def test_failing_attack_is_row_that_says_why_and_rest_goes_on(fake: type[Fake]) -> None:
    outcomes = run_all(small(attacks=[{"name": "fake", "level": [1, 0]}]))
    assert [outcome.failed for outcome in outcomes] == [True, False]
    (record,) = outcomes[0].records
    assert (record["status"], record["error"]) == ("failed", "ZeroDivisionError: two lines")
    assert (record["metrics"], record["dsc"], outcomes[0].class_records[0]) == ("", None, [])
    assert len(to_table(RECORDS, outcomes[0].records)) == 1


@pytest.mark.parametrize("ends", [SystemExit(3), GeneratorExit("of others")])
@pytest.mark.parametrize(
    "place",
    [
        *("attacks.fgsm.FGSM.run", "data.loaders.phantom.Phantom.native", "models.loading.load"),
        *("models.SegmentationModel.forward", "engine.scoring.score_target", "engine.rows.score_masks"),
    ],
)
def test_ending_code_fails_and_ctrl_c_ends(place: str, ends: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as sys.exit in an attack, a loader, a network or a metric."""

    def end(*_: object, **__: object) -> None:
        raise raised

    units = units_of(small(datasets=[{**CUBE, "cases": 2}]))
    monkeypatch.setattr(f"freqbench.{place}", end)
    raised = ends
    outcomes = run_serially(units, metrics=("dsc", "hd95"))
    assert [outcome.errors for outcome in outcomes] == 2 * [[f"{type(ends).__name__}: {ends}"]]
    raised = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_serially(units, metrics=("dsc", "hd95"))


def test_coupled_windows_go_in_the_cells_number(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer windows at once would fit, and make other volumes."""
    monkeypatch.setattr(Fake, "couples_batch", property(lambda self: True))
    (unit,) = units_of(small(attacks=[{"name": "fake"}], window_batch=3))
    one = make_worker(window_batch=1)
    outcome, _ = one.run(unit)
    assert not outcome.failed
    assert (fake.batches, outcome.records[0]["window_batch"]) == ([3, 1], 3)
    fake.fits = 2
    outcome, _ = one.run(unit)
    assert outcome.failed
    assert fake.batches == [3, 1, 3]
    assert outcome.records[0]["error"].startswith("expected memory for 3 windows at once, which this attack couples")


def test_masks_leave_only_for_surface_distances_and_as_bytes() -> None:
    (unit,) = units_of(small())
    assert make_worker(metrics=("dsc",)).run(unit)[1] is None
    _, masks = make_worker(metrics=("dsc", "hd95")).run(unit)
    assert masks is not None
    assert masks.pairs[0].pred.dtype == masks.pairs[0].label.dtype == torch.uint8
    assert len(score_masks(masks)) == 1


def test_a_prefetched_case_is_read_once_and_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = units_of(small(datasets=job()["datasets"]))
    read = noted(
        *(monkeypatch, Phantom, "load"),
        lambda _, ref, space: (ref.case_id, threading.current_thread().name.startswith("prefetch")),
    )
    worker = make_worker()
    for unit, following in ((first, second), (second, second)):
        outcome, _ = worker.run(unit, prefetch=following)
        assert not outcome.failed
    assert read == [(first.ref.case_id, False), (second.ref.case_id, True)]


class Hours:
    """A clock that only moves when it is told to: by the thread that it was made in, as others work beside."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._thread = threading.current_thread()
        self._patch = monkeypatch
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def let_take(self, owner: Any, name: str, hours: float) -> None:
        real = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is self._thread:
                self.now += hours
            return real(*args, **kwargs)

        self._patch.setattr(owner, name, slow)


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    made = Hours(monkeypatch)
    made.let_take(loading, "load", 3)
    made.let_take(Phantom, "load", 5)
    made.let_take(attacking, "attack_case", 7)
    made.let_take(models, "prediction", 11)
    return made


def test_reading_is_load_and_computing_device_time(hours: Hours, tmp_path: Path) -> None:
    """Cases that are kept or were read beside are no load; what metrics import is, before the first attack begins."""
    hours.let_take(scoring, "prepare", 19)
    hours.let_take(saved_volumes, "save", 13)
    hours.let_take(saved_volumes, "save_maps", 17)
    first, second = units_of(small(datasets=job()["datasets"]))
    worker = make_worker(volumes=str(tmp_path))
    begun = list[float]()
    worker.advance = lambda passes: None if passes else begun.append(hours.now)
    for unit, following, load in ((first, second, 3 + 5 + 19 + 13 + 2 * 17), (second, None, 13 + 2 * 17)):
        outcome, _ = worker.run(unit, prefetch=following)
        assert (outcome.load_seconds, outcome.device_seconds) == (load, 7 + 11 + 11)
    assert begun == [3 + 5 + 19, 3 + 5 + 19 + 7 + 11 + 11 + 13 + 2 * 17]


def test_the_share_of_a_card_is_set_before_windows_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the measure would count on memory of others."""
    done: list[tuple[str, float]] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: done.append(("set", share)))

    def measure(attack: Any, model: Any, case: Any, share: float, *surrogates: Any) -> int:
        done.append(("measured", share))
        return 1

    monkeypatch.setattr("freqbench.engine.memory.fitting_windows", measure)
    for name in ("reset_peak_memory_stats", "max_memory_allocated", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    real = models.load
    monkeypatch.setattr(loading, "load", lambda spec, device, *more: real(spec, torch.device("cpu"), *more))
    (unit,) = units_of(small())
    make_worker(device="cuda", gpu_share=0.5).run(unit)
    assert done == [("set", 0.5), ("measured", 0.5)]


def test_a_case_is_prefetched_under_the_trust_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = units_of(small(datasets=job()["datasets"]))
    trust = noted(monkeypatch, Phantom, "load", lambda _, ref, space: (ref.case_id, is_trusted()))
    worker = make_worker()
    worker.run(first, prefetch=second)
    worker.run(second)
    assert trust == [(first.ref.case_id, True), (second.ref.case_id, True)]


def test_the_passes_of_predictions_count_as_passes() -> None:
    (unit,) = units_of(small(attacks=[{"name": "gn", "std": 0.1}]))
    worker = make_worker()
    worker.passed = 0.0
    worker.run(unit)  # noise asks no network
    assert worker.passed > 0


def test_case_that_cannot_be_prefetched_fails_its_own_unit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = units_of(small(datasets=job()["datasets"]))
    real = Phantom.load

    def load(dataset: Phantom, ref: CaseRef, space: Preprocess | None) -> Case:
        if ref == second.ref:
            raise OSError("disk on fire")
        return real(dataset, ref, space)

    monkeypatch.setattr(Phantom, "load", load)
    worker = make_worker()
    outcome, _ = worker.run(first, prefetch=second)
    assert not outcome.failed
    outcome, _ = worker.run(second)
    assert outcome.records[0]["error"] == "OSError: disk on fire"


def test_lack_of_memory_halves_the_window_batch(fake: type[Fake]) -> None:
    fake.fits = 2
    worker = make_worker(window_batch=4)
    first, second = units_of(small(attacks=[{"name": "fake", "level": [0, 0.5]}]))
    assert [worker.run(unit)[0].records[0]["window_batch"] for unit in (first, second)] == [2, 2]
    assert fake.batches == [4, 2, 2, 2, 2]
