"""Reports how far a run is: what an engine tells its listener, where workers' time goes, and a bar or plain lines."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from freqbench.engine.rows import Outcome
from freqbench.job.grid import Unit
from freqbench.job.plan import Plan

LINE_EVERY_S = 10.0
PASSES_TO_SCORE = 10  # what predicting and scoring take on one target, about


class Listener(Protocol):
    """What an engine calls: `take` and `tick` from one thread, the others from the one that started the engine."""

    def begin(self, unit: Unit) -> None:
        """A unit begins."""

    def take(self, outcome: Outcome) -> None:
        """A unit has ended: its rows are to be stored."""

    def tick(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """About a second has passed, or the run ends; `workers` is `Clock.facts` of each."""

    def tell(self, text: str) -> None:
        """A line for the user to see while it lasts."""

    def warn(self, text: str) -> None:
        """A line for the user to find after the run."""


@dataclass(kw_only=True)
class Clock:
    """Tells where a worker's time went: load, device, idle.

    Load and device are what the worker measured of each unit that ended. Idle is the rest of the time since it was
    ready, without the unit that it is working on; the time from a death until it is ready again is not counted.
    """

    worker: int
    node: str = ""
    _units: int = field(default=0, init=False)
    _load: float = field(default=0.0, init=False)
    _device: float = field(default=0.0, init=False)
    _whole: float = field(default=0.0, init=False)
    _counted: float = field(default=0.0, init=False)

    def start(self, node: str) -> None:
        """The worker is ready on a machine, for the first time or again."""
        self.node = node
        self._counted = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """A unit ended now."""
        self._units += 1
        self._load += outcome.load_seconds
        self._device += outcome.device_seconds
        now = time.monotonic()
        self._whole += now - self._counted
        self._counted = now

    def facts(self, waits: bool) -> dict[str, Any]:
        """What a run's file says of a worker that now `waits` for a unit or not; times in seconds."""
        waited = time.monotonic() - self._counted if waits else 0.0
        idle = max(0.0, self._whole + waited - self._load - self._device)
        seconds = {"load_seconds": self._load, "device_seconds": self._device, "idle_seconds": idle}
        facts = {"worker": self.worker, "node": self.node, "units": self._units}
        return facts | {name: round(value, 3) for name, value in seconds.items()}


class RunProgress:
    """A bar where the console is a terminal, else a line now and then. Only stored records count as done."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._console = console
        self._total = plan.num_done + plan.num_todo
        self._stored = plan.num_done
        self._failed = 0
        self._said: set[str] = set()
        # A grid's long attacks come first, so that counting units would promise hours: passes are counted instead.
        self._work = {
            unit.cell.key(unit.ref, unit.targets[0])[:2]: unit.passes + PASSES_TO_SCORE * len(unit.targets)
            for unit in plan.units
        }
        self._all = sum(self._work.values())
        self._done = 0
        self._started = self._last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("records"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.bar.add_task("starting", total=self._total, completed=self._stored)

    def begin(self, unit: Unit) -> None:
        """A unit begins."""
        cell = unit.cell
        text = f"{cell.attack.name} on {cell.source.name}, {unit.ref.case_id}"
        self.bar.update(self._task, description=f"{text:<40.40}")

    def finish(self, outcome: Outcome) -> None:
        """A unit has ended, though its records are not stored yet; each error is said once."""
        self._done += self._work[outcome.records[0]["cell_id"], outcome.records[0]["case_key"]]
        if outcome.failed:
            self._failed += len(outcome.records)
            error = str(outcome.records[0]["error"])
            if error not in self._said:
                self._said.add(error)
                self._console.print(f"failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)

    def store(self, stored: int) -> None:
        """So many records were committed."""
        self._stored += stored
        self.bar.update(self._task, completed=self._stored)
        now = time.monotonic()
        if not self._console.is_terminal and (stored or now - self._last_line >= LINE_EVERY_S):
            self._last_line = now
            elapsed = now - self._started
            rest = f", about {elapsed / self._done * (self._all - self._done):.0f} s left" if self._done else ""
            failed = f", {self._failed} failed" if self._failed else ""
            line = f"{self._stored} of {self._total} records stored{failed}, {elapsed:.0f} s{rest}"
            self._console.print(line, highlight=False)
