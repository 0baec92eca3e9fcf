"""A run's lines without a terminal, and its workers' use of time."""

import io
import json
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from attacks.examples import EXAMPLES
from engine.cases import grid_of, units_of
from engine.faults import Faulty, add_attack
from rich.console import Console
from tiers import quick
from tiny_job import Collector, expanded, small

from freqbench.engine import engines
from freqbench.engine.engines import SHORT_S, run_plan, serial
from freqbench.engine.progress import Clock, RunProgress, TimeLeft
from freqbench.engine.rows import Outcome
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit
from freqbench.job.costs import Costs, place
from freqbench.job.plan import Plan, make_plan
from freqbench.job.schema import Resources

LAST_S = 10  # of a run, in which a factor says little


def shown_of(
    steps: int | list[int], eps: float | list[float] = 0.1, scoring: float = 10, **console: Any
) -> tuple[RunProgress, tuple[Unit, ...], io.StringIO]:
    """The progress of a run of PGD on one case, a second a pass, its units, and the lines on the console."""
    said = io.StringIO()
    plan = make_plan(grid_of(small(attacks=[{"name": "pgd", "eps": eps, "steps": steps}])), {})
    places = [place(unit) for unit in plan.units]
    attack = {key: float(unit.passes) for key, unit in zip(places, plan.units, strict=True)}
    costs = Costs(attack=attack, scoring=dict.fromkeys(places, scoring), basis="")
    return RunProgress(plan, Console(file=said, width=120, **console), costs), plan.units, said


def shown_of_two_attacks(*seconds: float) -> tuple[RunProgress, tuple[Unit, ...], io.StringIO]:
    """The progress of two units of FGSM, then two of noise, of these estimated seconds; the units, and the lines."""
    said = io.StringIO()
    attacks = [{"name": "fgsm", "eps": [0.1, 0.2]}, {"name": "gn", "std": [0.1, 0.2]}]
    plan = make_plan(grid_of(small(attacks=attacks)), {})
    attack = dict(zip(map(place, plan.units), seconds, strict=True))
    costs = Costs(attack=attack, scoring=dict.fromkeys(attack, 0.0), basis="")
    return RunProgress(plan, Console(file=said, width=120), costs), plan.units, said


def finish(shown: RunProgress, unit: Unit, attack: float = 1.0, scoring: float = 0.0) -> None:
    key = dict(zip(("cell_id", "case_key"), place(unit), strict=True))
    record = key | {"attack_seconds": attack, "score_seconds": scoring, "status": "ok"}
    shown.finish(Outcome(records=(record,), class_records=(), device_seconds=attack + scoring))


def left(said: io.StringIO) -> list[int]:
    return [int(line.split("about ")[1].split(" s left")[0]) for line in said.getvalue().splitlines()]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as one number that a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@dataclass(frozen=True)
class Recorded:
    """A unit of a recorded run, with what its place and its kind are made of."""

    number: int
    attack: str
    source: str
    passes: int
    ref: None = None
    targets: tuple[None] = (None,)

    @property
    def cell(self) -> SimpleNamespace:
        attack = SimpleNamespace(name=self.attack, needs_learned=False)
        key = (str(self.number), "case", "")
        return SimpleNamespace(attack=attack, source=SimpleNamespace(name=self.source), key=lambda ref, target: key)


def told_of(name: str) -> Iterator[tuple[float, float, float]]:
    """A part of a recorded run's records, the seconds left that it tells, and the true ones; loading is left out."""
    run = json.loads(Path(__file__).with_name("time_left.json").read_bytes())[name]
    units = [Recorded(number, *facts[:3]) for number, facts in enumerate(run["units"])]
    attack = {(str(number), "case"): facts[3] for number, facts in enumerate(run["units"])}
    scoring = {(str(number), "case"): facts[4] for number, facts in enumerate(run["units"])}
    time_left = TimeLeft(units, Costs(attack=attack, scoring=scoring, basis=""))  # type: ignore[arg-type]
    events = deque(run["events"])
    stored = 0
    total = sum(event[2] for event in events if event[0] == "store")
    end = max(event[1] for event in events)
    for tenths in range(int(10 * (end - LAST_S))):
        now = tenths / 10
        while events and events[0][1] <= now:
            kind, _, *facts = events.popleft()
            if kind == "use":
                time_left.use(*facts)
            elif kind == "wait":
                time_left.wait()
            elif kind == "advance":
                time_left.advance((str(facts[0]), "case"), facts[1], now)
            elif kind == "end":
                record = {"cell_id": str(facts[0]), "case_key": "case", "attack_seconds": facts[1]}
                time_left.end(Outcome(records=(record,), class_records=(), device_seconds=facts[1] + facts[2]), now)
            else:
                stored += facts[0]
        if tenths % 10 == 0:
            yield stored / total, time_left.time_left(now)[0], end - now


@pytest.mark.parametrize("name", ["quick start, first", "quick start, second", "brain, first"])
def test_time_left_is_within_3_and_then_1_5(name: str) -> None:
    """First runs have rough estimates: brain's attacks took 2.5 times as long, its scores as long as was estimated."""
    for stored, told, true in told_of(name):
        most = 1.5 if stored >= 0.05 else 3.0
        assert 1 / most < told / true < most, f"{told:.0f} s of {true:.0f} s with {stored:.0%} stored"


def test_remaining_time_follows_ended_units(at: list[float]) -> None:
    """170 of 220 seconds: 20 and 5 steps of two windows forward and back, and 10 to score each; all in a tenth."""
    shown, units, said = shown_of([20, 5])
    at[0] += 12
    shown.store(0)
    shown.advance(units[0], 0)
    at[0] += 17
    finish(shown, units[0], 16, 1)
    shown.store(1)
    assert said.getvalue().splitlines()[0] == "0 of 2 records stored, 12 s, about 220 s left"
    assert left(said)[1] == pytest.approx(5, abs=10), "as a unit is much of the whole, a little stays as estimated"


def test_the_start_of_workers_counts_for_no_pace(at: list[float]) -> None:
    """Two workers that take 40 seconds to start, and as long to make the first pass, then go as was estimated."""
    shown, units, said = shown_of(1000, [0.1, 0.2])
    shown.use({"workers": 2})
    at[0] += 40
    for unit in units:
        shown.advance(unit, 0)
    at[0] += 40
    for second in range(1, 41):
        at[0] += 1
        for unit in units:
            shown.advance(unit, second)
    assert left(said)[-1] == pytest.approx(8010 - 40, rel=0.1)


def test_attempt_that_begins_once_more_is_measured_from_then_on(at: list[float]) -> None:
    """The worker died after 600 passes, and an hour later another one goes on as was estimated."""
    shown, (unit,), said = shown_of(1000)
    for passes in (0, 600):
        shown.advance(unit, passes)
        at[0] += 3600
    for second in range(41):
        shown.advance(unit, second)
        at[0] += 1
    assert shown._left._factors()["pgd on a"] == pytest.approx(1)
    assert left(said)


def test_slow_scoring_makes_attacks_no_longer(at: list[float]) -> None:
    """Scoring takes 40 seconds instead of 10, an attack a second a pass, and half of the units are left."""
    shown, units, said = shown_of(1, [0.001 * number for number in range(1, 41)])
    for unit in units[:20]:
        shown.advance(unit, 1)
        at[0] += unit.passes + 40
        finish(shown, unit, unit.passes, 40)
    shown.store(20)
    assert shown._left._factors() == {"pgd on a": pytest.approx(1), "scoring": pytest.approx(4, rel=0.2)}
    assert left(said)[-1] == pytest.approx(20 * (units[0].passes + 40), rel=0.1)


def test_unit_alone_takes_as_long_as_one_worker_needs(at: list[float]) -> None:
    """Two workers did a second's work each second; one has the last unit, of 800 seconds and 10 to score."""
    shown, units, said = shown_of(100, [0.1, 0.2])
    shown.use({"workers": 2})
    for second in range(401):
        for unit in units:
            shown.advance(unit, second)
        at[0] += 1
    assert left(said)[-1] == pytest.approx(410, rel=0.05)


def test_learning_counts_as_attack_and_not_as_scoring(at: list[float]) -> None:
    """A universal attack learned for 500 seconds, then scored as was estimated."""
    said = io.StringIO()
    plan = make_plan(grid_of(small(attacks=[{"name": "universal", **EXAMPLES["universal"]}])), {})
    (unit,) = plan.units
    costs = Costs(attack={place(unit): 500.0}, scoring={place(unit): 10.0}, basis="")
    shown = RunProgress(plan, Console(file=said, width=120), costs)
    key = dict(zip(("cell_id", "case_key"), place(unit), strict=True))
    record = key | {"attack_seconds": 0.1, "score_seconds": 10.0, "status": "ok"}
    shown.finish(Outcome(records=(record,), class_records=(), device_seconds=510.1))
    assert shown._left._factors()["scoring"] == pytest.approx(1)


def test_estimates_that_round_below_nothing_leave_nothing(at: list[float]) -> None:
    """Parts of an estimate add up to a little more than the whole, as in 0.3 - 0.1 - 0.1 - 0.1."""
    shown, units, said = shown_of(5, [0.1, 0.2, 0.3], scoring=0.1)
    shown._left._ahead["pgd on a"] -= 1e-9
    for unit in units:
        shown.advance(unit, 1)
        at[0] += 5
        finish(shown, unit, 5.0)
    shown.store(3)
    assert left(said)[-1] == 0


def test_slow_attack_counts_for_more(at: list[float]) -> None:
    """A unit of each of two attacks of equal estimates is left, of which one took three times as long as the other."""
    shown, (dear, next_dear, cheap, _), said = shown_of_two_attacks(10.0, 10.0, 10.0, 10.0)
    shown.advance(dear, 0)
    for unit, seconds in ((dear, 30.0), (cheap, 10.0)):
        at[0] += seconds
        finish(shown, unit, seconds)
    shown.store(2)
    assert left(said)[-1] == pytest.approx(40, rel=0.15)
    at[0] += 30
    finish(shown, next_dear, 30.0)
    shown.store(1)
    assert left(said)[-1] == pytest.approx(10, rel=0.4)


def test_a_first_unit_of_a_second_multiplies_no_hours(at: list[float]) -> None:
    """An attack whose first unit took ten times its estimate, a second of a run of minutes: the rest may be as told."""
    shown, (quick_one, _, usual, _), said = shown_of_two_attacks(0.1, 100.0, 10.0, 100.0)
    shown.advance(quick_one, 0)
    for unit, taken in ((quick_one, 1.0), (usual, 10.0)):
        at[0] += taken
        finish(shown, unit, taken)
    shown.store(2)
    assert left(said)[-1] == pytest.approx(200, rel=0.3)


def test_the_remaining_time_goes_by_the_pace_of_the_last_minutes(at: list[float]) -> None:
    """A pass a second, then a machine three times as busy: what is left takes three times as long."""
    shown, (unit,), said = shown_of(1000)
    assert unit.passes == 8000
    shown.advance(unit, 0)
    for second in range(1, 4001):
        at[0] += 1 if second <= 2500 else 3
        shown.advance(unit, second)
    assert left(said)[200] == pytest.approx(8010 - 2000, abs=30)
    assert left(said)[-1] == pytest.approx(3 * (8010 - 4000), rel=0.01)


def test_a_dear_unit_says_how_far_it_is_and_is_through_once(at: list[float]) -> None:
    shown, (one, two), said = shown_of(20, [0.1, 0.2])
    shown.advance(one, 1)
    at[0] += 4
    shown.advance(one, 40)
    at[0] += 8
    shown.advance(two, 120)
    finish(shown, two)
    at[0] += 18
    shown.advance(one, 200)  # an attack may look more often than it says
    assert re.sub(r"about \d+ s", "about N s", said.getvalue()).splitlines() == [
        "0 of 2 records stored, 12 s, about N s left, 2 attacks at 50 %",
        "0 of 2 records stored, 30 s, about N s left, pgd on a, phantom_2000 at 100 %",
    ]


def test_the_bar_of_a_terminal_moves_within_a_unit(at: list[float]) -> None:
    shown, (unit,), said = shown_of(20, force_terminal=True)
    shown.advance(unit, 1)
    at[0] += 30
    shown.advance(unit, 80)
    with shown.bar:
        pass
    for text in ("pgd on a, phantom_2000", "50 %", "0/1 records", "left: 0:00:4"):
        assert text in said.getvalue()


@pytest.mark.parametrize(("done", "percent"), [(80, " 50 %"), (160, "100 %")])
def test_long_name_in_a_bar_keeps_its_ends(at: list[float], done: int, percent: str) -> None:
    shown, (unit,), _ = shown_of(20, force_terminal=True)
    long = replace(unit, ref=replace(unit.ref, case_id="phantom_of_the_opera_2000"))
    at[0] += 30
    shown.advance(long, done)
    (task,) = shown.bar.tasks
    assert task.description == f"pgd on a, p…_opera_2000  {percent}"


class StoppedError(Exception):
    """Ends a run where Ray would start."""


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(cpus: int) -> None:
        raise StoppedError

    monkeypatch.setattr("freqbench.engine.ray.ray_cluster.own", stop)


def plan_of(**resources: Any) -> Plan:
    _, grid = expanded(small(attacks=[{"name": "fgsm", "eps": [0.1, 0.2, 0.3]}]))
    return make_plan(replace(grid, job=grid.job.model_copy(update={"resources": Resources(**resources)})), {})


without_a_ray = pytest.mark.usefixtures("no_start")


@without_a_ray
def test_the_number_of_workers_is_told_before_ray_starts() -> None:
    """Else the first lines tell the seconds of one worker."""
    told = list[Any]()

    class Listening(Collector):
        def use(self, engine: Mapping[str, Any]) -> None:
            told.append(engine["workers"])

    with pytest.raises(StoppedError):
        run_plan(plan_of(workers=3), "ray", None, WorkerSpec(run_id="r", metrics=()), Listening())
    assert told == [3]


@without_a_ray
def test_seconds_of_work_start_no_ray_unless_workers_are_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.engine.engines.available_cores", lambda: 4)
    spec = WorkerSpec(run_id="r", metrics=())
    listener = Collector()
    run_plan(plan_of(), "auto", None, spec, listener, SHORT_S - 1)
    for resources, seconds in (({}, SHORT_S + 1), ({"workers": 2}, SHORT_S - 1)):
        with pytest.raises(StoppedError):
            run_plan(plan_of(**resources), "auto", None, spec, listener, seconds)


@pytest.mark.parametrize(
    ("name", "scope"),
    quick(
        [("square", "window"), ("apgd", "volume"), ("sea", "window"), ("vafa", "window")],
        *(("square", "window"), ("vafa", "window")),
    ),
)
def test_the_passes_that_are_told_are_those_that_the_row_counts(name: str, scope: str) -> None:
    """Each kind of attack counts: without a gradient, with one, with looks beside it, and an ensemble."""
    listener = Collector()
    attack = {"name": name, **EXAMPLES[name], "scope": scope}
    serial(units_of(small(attacks=[attack])), WorkerSpec(run_id="r", metrics=()), listener)
    (record,) = listener.outcomes[0].records
    told = [passes for _, passes in listener.passes]
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == record["num_forwards"] + record["num_backwards"] > 0


def outcome(load: float, device: float) -> Outcome:
    return Outcome(records=(), class_records=(), load_seconds=load, device_seconds=device)


def seconds(clock: Clock, waits: bool) -> tuple[float, ...]:
    facts = clock.facts(waits)
    return tuple(facts[f"{name}_seconds"] for name in ("load", "device", "idle"))


def test_idle_time_is_rest_beside_load_and_device_since_ready(at: list[float]) -> None:
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


def test_lost_units_and_restarts_of_a_worker_are_not_counted(at: list[float]) -> None:
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


@pytest.mark.integration
def test_serial_unit_without_pass_is_reported_repeatedly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack sleeps for four periods: told of after the first and the second, which end at twice and four times."""
    monkeypatch.setattr(engines, "HANGS_S", 0.5)
    add_attack(monkeypatch, Faulty)
    monkeypatch.setattr("engine.faults.time.sleep", lambda _: Event().wait(1.75))
    faulty = {"name": "faulty", "place": str(tmp_path), "fault": "hang"}
    (unit,) = units_of(small(attacks=[faulty]))
    listener = Collector()
    serial([unit], WorkerSpec(run_id="r", metrics=("dsc",), threads=1, trust_code=True), listener)
    told = [text for text in listener.said if "no network has made a pass" in text]
    of = f"waiting for {unit.name} of phantom (cell {unit.cell.cell_id}), begun "
    assert [text.startswith(of) for text in told] == [True, True]
    assert "case_timeout: SECONDS in the job" in told[0]
    assert not listener.outcomes[0].failed


def test_serial_unit_whose_network_makes_passes_is_not_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four windows wait for 0.6 s each, less than the period, and their passes lie between them."""
    monkeypatch.setattr(engines, "HANGS_S", 2.0)
    add_attack(monkeypatch, Faulty)
    monkeypatch.setattr("engine.faults.time.sleep", lambda _: Event().wait(0.6))
    faulty = {"name": "faulty", "place": str(tmp_path), "fault": "slow"}
    spec = WorkerSpec(run_id="r", metrics=("dsc",), threads=1, window_batch=1, trust_code=True)
    listener = Collector()
    serial(units_of(small(attacks=[faulty])), spec, listener)
    assert not listener.outcomes[0].failed
    assert not [text for text in listener.said if "no network has made a pass" in text]
