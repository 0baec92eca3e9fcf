"""What `audit --run` does: says what it will take, runs the extra cells, looks at gradients and at saved volumes."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from freqbench.audit import extra_cells, probes
from freqbench.audit.measurements import root_of
from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.engine import run
from freqbench.job import plan
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import parse_value
from freqbench.results import Store

CASES = 5
LARGEST = 3
"""As many attacks are said to take most passes."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options of `audit --run`.

    Attributes:
        cases: the first so many of each dataset; None: CASES.
        eps: radius as a job file writes it; None: as `probing.usual_eps` finds it.
        engine: as of `runner.execute`, and `address`.
        compute: False: only say what it would take.
    """

    cases: int | None = None
    eps: str | None = None
    engine: run.Engine = "auto"
    address: str | None = None
    compute: bool = True


def carry_out(job: JobSpec, out: str, asked: Asked, console: Console) -> int | None:
    """Compute what an audit of a store lacks, into OUT/audit; the same call goes on where it was stopped.

    Args:
        job: of the store.
        out: the store, of which nothing is changed.
        asked: how much of it, and how.
        console: where it is said what is planned and done.

    Returns:
        The number of records that failed; None where it was interrupted.

    Raises:
        UserError: no store, or options that cannot be.
    """

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    Store(out).job()  # refused here where there is none
    probe = extra_cells.planned(job, out, asked.cases or CASES, _eps(asked.eps), say, asked.compute)
    place = root_of(out)
    console.print(plan.table(probe.job.name, probe.grid))
    cases = max(map(len, probe.own.cases.values()))
    units, passes = sum(1 for _ in probe.grid.units()), Counter[str]()
    for unit in probe.grid.units():
        passes[unit.cell.attack.name] += unit.passes
    say(f"{len(probe.grid.cells)} cells, {units} units on at most {cases} cases, {passes.total():,} window passes")
    if passes:
        say(f"most of them: {', '.join(f'{name} {count:,}' for name, count in passes.most_common(LARGEST))}")
    say(f"gradients: {probes.num_passes(probe):,} window passes more, at most")
    for line in plan.lines(probe.grid, (), None, place):
        say(line)
    if not asked.compute:
        return 0
    with trusting(job.trust_code):
        return _computed(probe, out, place, asked, say, console)


def _computed(
    probe: extra_cells.Probe, out: str, place: str, asked: Asked, say: Callable[[str], None], console: Console
) -> int | None:
    summary = run.execute(probe.job, probe.grid, place, console, asked.engine, asked.address)
    try:
        if not summary.interrupted:
            probes.measure_gradients(probe, out, say)
            probes.rescore_saved(probe, out, say)
            return summary.num_failed
    except KeyboardInterrupt:
        pass
    say(f"stopped: what was computed is in {place}, and the same command goes on")
    return None


def _eps(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(parse_value(text))
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UserError(f"--eps: expected a number in (0, 1] or a fraction like 8/255, got {text}")
    return value
