"""Reports a run's progress: the listener of an engine, the use of workers' time, and a bar or plain lines."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from freqbench.core.terminal import amount
from freqbench.engine.rows import Outcome
from freqbench.job.cells import Unit
from freqbench.job.costs import Costs, Place, place
from freqbench.job.plan import Plan

LINE_EVERY_S, DRAW_EVERY_S = 10.0, 0.2
PACE_S = 300.0  # the remaining time follows the pace of this period
SETTLED = 0.05  # part of the work after which a run's own pace is the only measure
MOST_SETTLED_S, SETTLED_S = 60.0, 20.0  # estimated seconds of that part at most, and time that must have passed too


class Listener(Protocol):
    """Interface that an engine calls: `take`, `tick`, `advance` from one thread, the rest from its starting thread."""

    def use(self, engine: Mapping[str, Any]) -> None:
        """An engine was chosen: its name, and the number and size of its workers."""

    def wait(self, text: str) -> None:
        """The engine waits for something, before units begin."""

    def begin(self, unit: Unit) -> None:
        """A unit begins."""

    def advance(self, unit: Unit, passes: int) -> None:
        """A unit has made `passes` of the passes over windows in `Unit.passes`."""

    def take(self, outcome: Outcome) -> None:
        """A unit has ended, and its rows must be stored."""

    def tick(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """About a second has passed, or the run ends; `workers` holds `Clock.facts` of each worker."""

    def keep(self, save: Callable[[], object]) -> None:
        """Runs an action that saves a unit's files, until the store takes them."""

    def tell(self, text: str) -> None:
        """Shows the user a line during the run."""

    def warn(self, text: str) -> None:
        """Shows the user a line and keeps it for after the run."""


class Clock:
    """Measures a worker's time: load, device, idle.

    Load and device times are the worker's own measurements of finished units. Idle time is the rest since the worker
    was ready, without its current unit; time from a death until it is ready again is not counted.
    """

    def __init__(self, worker: int) -> None:
        self.worker, self.node, self._units = worker, "", 0
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
        before, self._counted = self._counted, time.monotonic()
        self._whole += self._counted - before

    def facts(self, waits: bool) -> dict[str, Any]:
        """Returns a worker's entry in a run's file, times in seconds; `waits` is true if it waits for a unit now."""
        waited = time.monotonic() - self._counted if waits else 0.0
        idle = max(0.0, self._whole + waited - self._load - self._device)
        seconds = {"load_seconds": self._load, "device_seconds": self._device, "idle_seconds": idle}
        facts = {"worker": self.worker, "node": self.node, "units": self._units}
        return facts | {name: round(value, 3) for name, value in seconds.items()}


class RunProgress:
    """Progress of a run: a bar on a terminal, else a line now and then. Only stored records count as done.

    Bar and remaining time follow the estimated seconds of units, passes within a unit included. At first the remaining
    time is the estimate; from SETTLED of the work on it follows the pace since the first pass began, of the last PACE_S
    at most; in between it is a weighted geometric mean of both. An attack whose ended units took longer than was
    estimated counts for more.
    """

    def __init__(self, plan: Plan, console: Console, costs: Costs) -> None:
        self._console, self._num_done = console, plan.num_done
        self._total = plan.num_done + plan.num_todo
        self.num_new = self.num_failed = 0  # records that were stored; records of units that have ended
        self._said: set[str] = set()
        self._costs, self._attacks = costs, {place(unit): unit.cell.attack.name for unit in plan.units}
        self._all, self._done, self._workers = costs.total, 0.0, 1
        self._ahead = defaultdict[str, float](float)  # by attack: estimated seconds of units that have not ended
        for key, attack in self._attacks.items():
            self._ahead[attack] += costs.attack[key] + costs.scoring[key]
        self._taken: dict[str, tuple[float, float]] = {}  # by attack: estimated and true seconds of ended units
        self._within: dict[Place, tuple[Unit, int]] = {}  # units at work and their passes so far
        self._started = self._last_line = self._last_drawn = time.monotonic()
        self._began = 0.0, 0.0  # time of the first pass, and estimated seconds done then
        self._paces = deque[tuple[float, float]]()  # the same from the first pass on
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[records]} records"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rest]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._before = round(self._all * plan.num_done / max(1, plan.num_todo))  # a guess
        total, records = self._before + self._all, f"{plan.num_done}/{self._total}"
        self._task = self.bar.add_task("starting", total=total, completed=self._before, records=records, rest="")

    def wait(self, text: str) -> None:
        """Names what a run waits for: in the bar, or in a line."""
        self.bar.update(self._task, description=text)
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def use(self, engine: Mapping[str, Any]) -> None:
        """Takes the number of workers."""
        self._workers = engine["workers"]

    def begin(self, unit: Unit) -> None:
        """A unit begins."""
        self.bar.update(self._task, description=f"{unit.name:<30.30}")

    def advance(self, unit: Unit, passes: int) -> None:
        """Counts a unit's passes; draws or prints only now and then."""
        self._within[place(unit)] = unit, min(passes, unit.passes)
        now = time.monotonic()
        if passes:
            self._begin_pace(now)
        if now - self._last_drawn >= DRAW_EVERY_S:
            self._last_drawn = now
            self.bar.update(self._task, description=f"{unit.name:<25.25}{_percent(passes, unit.passes):>5}")
            self._show(now)

    def _begin_pace(self, now: float) -> None:
        """Begins to measure at the first pass, as loading the first network and case is no part of a pace."""
        if not self._paces:
            self._began = now, self._done + sum(map(self._behind, self._within))
            self._paces.append(self._began)

    def finish(self, outcome: Outcome) -> None:
        """Counts a unit that has ended, before its records are stored; prints each error once."""
        key = outcome.records[0]["cell_id"], outcome.records[0]["case_key"]
        seconds = self._costs.attack[key] + self._costs.scoring[key]
        self._done += seconds
        attack = self._attacks[key]
        self._ahead[attack] -= seconds
        estimated, taken = self._taken.get(attack, (0.0, 0.0))
        self._taken[attack] = estimated + seconds, taken + outcome.device_seconds
        self._within.pop(key, None)
        self._begin_pace(time.monotonic())
        self.num_failed += len(outcome.errors)
        for error in outcome.errors:
            if error not in self._said:
                self._said.add(error)
                self._console.print(f"failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)

    def store(self, stored: int) -> None:
        """Counts committed records."""
        self.num_new += stored
        self._show(time.monotonic(), at_once=bool(stored))

    def _show(self, now: float, at_once: bool = False) -> None:
        within = list(self._within.values())
        made = sum(passes for _, passes in within)
        done = self._done + sum(map(self._behind, self._within))
        rest = self._rest(now, done)
        stored = self._num_done + self.num_new
        records, spoken = f"{stored}/{self._total}", f"left: {timedelta(seconds=rest)}"
        self.bar.update(self._task, completed=self._before + done, records=records, rest=spoken)
        if not self._console.is_terminal and (at_once or now - self._last_line >= LINE_EVERY_S):
            self._last_line = now
            failed = f", {self.num_failed} failed" if self.num_failed else ""
            line = f"{stored} of {self._total} records stored{failed}, {now - self._started:.0f} s"
            line += f", about {rest} s left"
            if within:
                what = within[0][0].name if len(within) == 1 else amount(len(within), "unit")
                line += f", {what} at {_percent(made, sum(unit.passes for unit, _ in within))}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _behind(self, key: Place) -> float:
        """Returns the estimated seconds that lie behind a unit at work."""
        unit, passes = self._within[key]
        return self._costs.attack[key] * passes / max(1, unit.passes)

    def _rest(self, now: float, done: float) -> int:
        """Estimates the remaining seconds."""
        ahead = dict(self._ahead)
        for key, (unit, _) in self._within.items():
            ahead[unit.cell.attack.name] -= self._behind(key)
        left = max(0.0, sum(seconds * self._factor(attack) for attack, seconds in ahead.items()))  # rounded below 0
        planned = left / self._workers
        began, made = self._began[0], done - self._began[1]
        if not self._paces or made <= 0:
            return round(planned)
        if now - self._paces[-1][0] >= 1:
            self._paces.append((now, done))
        while len(self._paces) > 2 and now - self._paces[1][0] >= PACE_S:
            self._paces.popleft()
        recent = next(((now - then) / (done - before) for then, before in self._paces if done > before), None)
        pace = (now - began) / made if recent is None else recent
        settled = min(1.0, made / min(SETTLED * self._all, MOST_SETTLED_S)) * min(1.0, (now - began) / SETTLED_S)
        return round(planned ** (1 - settled) * (pace * left) ** settled)

    def _factor(self, attack: str) -> float:
        """Returns how much longer than others an attack takes, each against its estimate; about 1 after little work.

        Without that pull a unit of a second, whose network is new to the machine, would multiply hours of others.
        """
        all_estimated, all_taken = map(sum, zip(*self._taken.values(), strict=True)) if self._taken else (0.0, 0.0)
        estimated, taken = self._taken.get(attack, (0.0, 0.0))
        little = SETTLED * self._all
        if not (estimated and all_taken):
            return 1.0
        return (taken * all_estimated / all_taken + little) / (estimated + little)


def _percent(part: int, whole: int) -> str:
    return f"{100 * min(part, whole) // max(1, whole)} %"
