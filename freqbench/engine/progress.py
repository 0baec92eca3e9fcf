"""Reports a run's progress: the listener of an engine, the use of workers' time, and a bar or plain lines."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from freqbench.core.terminal import amount, elide
from freqbench.engine.rows import Outcome
from freqbench.job.cells import Unit
from freqbench.job.costs import Costs, Place, place
from freqbench.job.plan import Plan

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.2
# the pace is that of the last minutes; after the second period it alone counts
PACE_S = 300.0
SETTLED_S = 60.0
LITTLE = 0.05  # part of the estimated work that must have ended for its true seconds to count as much as the estimate
SCORING = "scoring"


class Listener(Protocol):
    """Calls of an engine: `tell` from any thread, `take`, `tick`, `advance` from one, the rest from its first."""

    def use(self, engine: Mapping[str, Any]) -> None:
        """An engine was chosen: its name, and the number and size of its workers."""

    def wait(self, text: str) -> None:
        """The engine waits for something, named by `text`, before units begin."""

    def begin(self, unit: Unit) -> None:
        """A unit begins."""

    def advance(self, unit: Unit, passes: int) -> None:
        """A unit's attack begins (0), or has made `passes` of the passes over windows in `Unit.passes`."""

    def take(self, outcome: Outcome) -> None:
        """A unit has ended, and its rows must be stored."""

    def tick(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """Called about once a second, and as the run ends; `workers` holds `Clock.facts` of each worker."""

    def keep(self, save: Callable[[], object]) -> None:
        """Runs an action, `save`, that saves a unit's files, until the store takes them."""

    def tell(self, text: str) -> None:
        """Shows the user a line during the run."""

    def warn(self, text: str) -> None:
        """Shows the user a line and keeps it for after the run."""


class Clock:
    """Measures a worker's time: load and device, as it measured them of finished units, and idle, the rest since it was
    ready. Its current unit, and the time from a death until it is ready again, are not counted."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.node = ""
        self._units = 0
        self._load = self._device = self._whole = self._counted = 0.0

    def start(self, node: str) -> None:
        """Marks the worker as ready on a machine, for the first time or again."""
        self.node = node
        self._counted = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Adds the times of a unit that has just ended."""
        self._units += 1
        self._load += outcome.load_seconds
        self._device += outcome.device_seconds
        before = self._counted
        self._counted = time.monotonic()
        self._whole += self._counted - before

    def facts(self, waits: bool) -> dict[str, Any]:
        """Returns a worker's entry in a run's file, times in seconds; `waits` is true if it waits for a unit now."""
        idle = max(0.0, self._whole + (time.monotonic() - self._counted if waits else 0.0) - self._load - self._device)
        seconds = {"load_seconds": self._load, "device_seconds": self._device, "idle_seconds": idle}
        facts = {"worker": self.worker, "node": self.node, "units": self._units}
        return facts | {name: round(value, 3) for name, value in seconds.items()}


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """A unit whose attack has begun."""

    unit: Unit
    passes: int
    first: int  # passes when it was first heard of
    begun: float  # time of that
    since: float  # time of the last pass

    def part(self, passes: int) -> float:
        """Returns the part of the attack that so many passes are."""
        return passes / self.unit.passes if self.unit.passes else 1.0


class TimeLeft:
    """Time until a run's last row is stored: the estimated work ahead, corrected by the work that ended, at a pace.
    Estimates of a kind (scoring, each attack on each source) are multiplied by the seconds that it took over those
    estimated; a little work counts as usual. The pace is the work done per second: at first a second of each worker,
    after SETTLED_S that of the last PACE_S. Starting and loading are no work."""

    def __init__(self, units: Sequence[Unit], costs: Costs) -> None:
        self._units = {place(unit): unit for unit in units}
        self._costs = costs
        self._workers = 1
        self._little = LITTLE * costs.total
        self._ahead, self._ended, self._took = (defaultdict[str, float](float) for _ in range(3))  # seconds by kind
        for key in self._units:
            for kind, seconds in self._estimates(key).items():
                self._ahead[kind] += seconds
        self.at_work: dict[Place, AtWork] = {}
        self._times = deque[tuple[float, Mapping[str, float]]]()  # and the estimated seconds done by then

    def use(self, workers: int) -> None:
        """Takes the number of workers."""
        self._workers = workers

    def wait(self) -> None:
        """Forgets the pace, as workers are awaited."""
        self._times.clear()

    def advance(self, key: Place, passes: int, now: float) -> None:
        """A unit's attack has begun, perhaps once more, or made so many passes."""
        unit = self._units[key]
        passes = min(passes, unit.passes)
        former = self.at_work.get(key)
        if former is None or passes < former.passes:
            self.at_work[key] = AtWork(unit=unit, passes=passes, first=passes, begun=now, since=now)
        elif passes > former.passes:
            self.at_work[key] = replace(former, passes=passes, since=now)
        if passes and not self._times:
            self._times.append((now, self._done_seconds(now, self._factors())))

    def end(self, outcome: Outcome, now: float) -> None:
        """A unit has ended. What an attack learned first belongs to it, as in the estimate."""
        first = outcome.records[0]
        key = first["cell_id"], first["case_key"]
        attack = first["attack_seconds"] or 0.0
        if self._units[key].cell.attack.needs_learned:
            attack = outcome.device_seconds - sum(record["score_seconds"] or 0.0 for record in outcome.records)
        self.at_work.pop(key, None)
        seconds = attack, outcome.device_seconds - attack
        for (kind, estimated), took in zip(self._estimates(key).items(), seconds, strict=True):
            self._ahead[kind] -= estimated
            self._ended[kind] += estimated
            self._took[kind] += took
        if not self._times:
            self._times.append((now, self._done_seconds(now, self._factors())))

    def time_left(self, now: float) -> tuple[float, float]:
        """Returns the remaining seconds, and the part of the work that is done."""
        factors = self._factors()
        done = self._done_seconds(now, factors)
        work = sum(seconds * factors[kind] for kind, seconds in done.items())
        left = sum((self._ahead[kind] + self._ended[kind] - done[kind]) * factors[kind] for kind in factors)
        alone = 0.0  # seconds that a unit at work still takes by its one worker
        for key in self.at_work:
            made = self._unit_seconds(key, now, factors)
            whole = self._estimates(key)
            alone = max(alone, sum((whole[kind] - made[kind]) * factors[kind] for kind in whole))
        pace: float = self._workers  # seconds of work that are done in one second
        times = self._times
        if times:
            if now - times[-1][0] >= 1:
                times.append((now, done))
            while len(times) > 2 and now - times[1][0] >= PACE_S:
                times.popleft()
            then, before = times[0]
            since = sum((seconds - before.get(kind, 0.0)) * factors[kind] for kind, seconds in done.items())
            if since > 0 and now > then:
                settled = min(1.0, (now - then) / SETTLED_S)
                pace = settled * since / (now - then) + (1 - settled) * self._workers
        return max(alone * self._workers, left) / pace, work / (work + left) if work + left else 1.0

    def _estimates(self, key: Place) -> dict[str, float]:
        cell = self._units[key].cell
        return {f"{cell.attack.name} on {cell.source.name}": self._costs.attack[key], SCORING: self._costs.scoring[key]}

    def _factors(self) -> dict[str, float]:
        """Returns the factor of the estimates of each kind."""
        took = self._took.copy()
        ended = self._ended.copy()
        for key, work in self.at_work.items():
            kind, seconds = next(iter(self._estimates(key).items()))
            took[kind] += work.since - work.begun
            ended[kind] += seconds * work.part(work.passes - work.first)

        def factor(took: float, estimated: float, usual: float) -> float:
            return (took + usual * self._little) / (estimated + self._little) if self._little else 1.0

        scoring = factor(took[SCORING], ended[SCORING], 1.0)
        attacks = factor(sum(took.values()) - took[SCORING], sum(ended.values()) - ended[SCORING], 1.0)
        return {kind: factor(took[kind], ended[kind], attacks) for kind in self._ahead} | {SCORING: scoring}

    def _done_seconds(self, now: float, factors: Mapping[str, float]) -> dict[str, float]:
        """Returns the estimated seconds of the finished work, by kind."""
        done = self._ended.copy()
        for key in self.at_work:
            for kind, seconds in self._unit_seconds(key, now, factors).items():
                done[kind] += seconds
        return done

    def _unit_seconds(self, key: Place, now: float, factors: Mapping[str, float]) -> dict[str, float]:
        """Returns the estimated seconds of the finished part of a unit at work, by kind."""
        work = self.at_work[key]
        made: dict[str, float] = {}
        part = work.part(work.passes)
        beyond = now - work.since if part else 0.0
        for kind, seconds in self._estimates(key).items():
            made[kind] = min(seconds, part * seconds + beyond / factors[kind])
            beyond -= (made[kind] - part * seconds) * factors[kind]
            part = 0.0  # scoring reports nothing
        return made


class RunProgress:
    """Progress of a run by its stored records: a bar on a terminal, else a line now and then; time by `TimeLeft`."""

    def __init__(self, plan: Plan, console: Console, costs: Costs) -> None:
        self._console = console
        num_done = plan.num_done
        self._num_done = num_done
        self._total = num_done + plan.num_todo
        self.num_new = self.num_failed = 0  # records that were stored; records of units that have ended
        self._said: set[str] = set()
        self.num_clean = self._predicted = 0  # clean predictions: to make before attacks, and made
        self._left = TimeLeft(plan.units, costs)
        self._started = self._last_line = self._last_drawn = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[records]} records"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rest]}"),
            console=console,
            disable=not console.is_terminal,
        )
        records = f"{num_done}/{self._total}"
        self._task = self.bar.add_task("starting", total=self._total, completed=num_done, records=records, rest="")

    def wait(self, text: str) -> None:
        """Names what a run waits for: in the bar, or in a line."""
        self._left.wait()
        self.bar.update(self._task, description=text)
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def use(self, engine: Mapping[str, Any]) -> None:
        """Takes the number of workers."""
        self._left.use(engine["workers"])

    def begin(self, unit: Unit) -> None:
        """A unit begins."""
        self.bar.update(self._task, description=self._clean_text if unit.is_clean else f"{elide(unit.name, 30):<30}")

    def advance(self, unit: Unit, passes: int) -> None:
        """Counts a unit's passes; draws or prints only now and then."""
        now = time.monotonic()
        self._left.advance(place(unit), passes, now)
        if now - self._last_drawn >= DRAW_EVERY_S:
            self._last_drawn = now
            self.bar.update(self._task, description=f"{elide(unit.name, 24):<24} {_percent(passes, unit.passes):>5}")
            self._show(now)

    def finish(self, outcome: Outcome) -> None:
        """Counts a unit that has ended, before its records are stored; prints each error once."""
        console = self._console
        now = time.monotonic()
        if outcome.clean:
            self._predicted += len(outcome.clean)
            is_due = now - self._last_line >= LINE_EVERY_S or self._predicted == self.num_clean
            if not console.is_terminal and is_due:
                self._last_line = now
                console.print(self._clean_text, highlight=False)
        else:
            self._left.end(outcome, now)
        self.num_failed += len(outcome.errors)
        lost = (f"clean prediction of {each['case_id']}: {each['error']}" for each in outcome.clean if "error" in each)
        for error in (*outcome.errors, *lost):
            if error not in self._said:
                self._said.add(error)
                console.print(f"failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)

    @property
    def _clean_text(self) -> str:
        return f"clean predictions: {self._predicted} of {self.num_clean}"

    def store(self, stored: int) -> None:
        """Counts committed records."""
        self.num_new += stored
        self._show(time.monotonic(), at_once=bool(stored))

    def _show(self, now: float, at_once: bool = False) -> None:
        within = list(self._left.at_work.values())
        made = sum(work.passes for work in within)
        seconds, part = self._left.time_left(now)
        rest = round(seconds)
        stored = self._num_done + self.num_new
        records = f"{stored}/{self._total}"
        spoken = f"left: {timedelta(seconds=rest)}"
        done = self._num_done + part * (self._total - self._num_done)
        self.bar.update(self._task, completed=done, records=records, rest=spoken)
        if not self._console.is_terminal and (at_once or now - self._last_line >= LINE_EVERY_S):
            self._last_line = now
            failed = f", {self.num_failed} failed" if self.num_failed else ""
            line = f"{stored} of {self._total} records stored{failed}, {now - self._started:.0f} s"
            line += f", about {rest} s left"
            if within:
                what = within[0].unit.name if len(within) == 1 else amount(len(within), "attack")
                line += f", {what} at {_percent(made, sum(work.unit.passes for work in within))}"
            self._console.print(line, highlight=False, soft_wrap=True)


def _percent(part: int, whole: int) -> str:
    return f"{100 * min(part, whole) // max(1, whole)} %"
