"""Progress from one place: a bar on a terminal, plain lines elsewhere. Only stored records count as done."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from freqbench.engine.rows import Outcome
from freqbench.job.grid import Unit
from freqbench.job.plan import Plan

LINE_EVERY_S = 10.0
PASSES_TO_SCORE = 10  # what predicting and scoring take on one target, about


class RunProgress:
    """Shows how far a run is.

    Args:
        plan: what is to do.
        console: where to; a terminal gets a bar, anything else a line now and then.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self._console = console
        self._total = plan.num_done + plan.num_todo
        self._stored = plan.num_done
        self._failed = 0
        self._said: set[str] = set()
        self._work = {unit.cell.key(unit.ref, unit.targets[0])[:2]: _work(unit) for unit in plan.units}
        self._all = sum(self._work.values())
        self._done = 0
        self._started = self._last_line = time.monotonic()
        self._bar = Progress(
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
        self._task = self._bar.add_task("starting", total=self._total, completed=self._stored)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, unit: Unit) -> None:
        """A unit is taken up."""
        cell = unit.cell
        text = f"{cell.attack.name} on {cell.source.name}, {unit.ref.case_id}"
        self._bar.update(self._task, description=f"{text:<40.40}")

    def finish(self, outcome: Outcome) -> None:
        """A unit is through, though its records are not stored yet."""
        self._done += self._work[outcome.records[0]["cell_id"], outcome.records[0]["case_key"]]
        if outcome.failed:
            self._failed += len(outcome.records)
            error = str(outcome.records[0]["error"])
            if error not in self._said:
                self._said.add(error)
                self._console.print(f"failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)

    def store(self, stored: int) -> None:
        """Records were committed."""
        self._stored += stored
        self._bar.update(self._task, completed=self._stored)
        now = time.monotonic()
        if not self._console.is_terminal and (stored or now - self._last_line >= LINE_EVERY_S):
            self._last_line = now
            elapsed = now - self._started
            rest = f", about {elapsed / self._done * (self._all - self._done):.0f} s left" if self._done else ""
            failed = f", {self._failed} failed" if self._failed else ""
            self._console.print(
                f"{self._stored} of {self._total} records stored{failed}, {elapsed:.0f} s{rest}",
                highlight=False,
            )


def _work(unit: Unit) -> int:
    """What a unit takes, in passes: a grid's long attacks come first, so that units alone would promise hours."""
    return unit.passes + PASSES_TO_SCORE * len(unit.targets)
