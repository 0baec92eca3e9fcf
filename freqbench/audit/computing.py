"""Computes the missing parts of a store's audit (`audit --run`): its extra cells, and its probes.

Results go into a store of their own, OUT/audit, by the same runner; OUT's rows stay, and none is computed again.
"""

import math
from collections import Counter

from rich.console import Console

from freqbench.audit.extra_cells import planned
from freqbench.audit.probe_files import root_of
from freqbench.audit.probes import measure_gradients, num_passes, rescore_saved
from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.engine import run
from freqbench.job import plan
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import parse_value
from freqbench.results import Store

CASES = 5
LARGEST = 3  # number of attacks listed as taking most passes


def carry_out(
    job: JobSpec,
    out: str,
    console: Console,
    *,
    cases: int | None = None,
    eps: str | None = None,
    engine: run.Engine = "auto",
    address: str | None = None,
    compute: bool = True,
) -> int | None:
    """Computes the missing parts of a store's audit into OUT/audit; a repeated call goes on where the last one stopped.

    It takes the first `cases` of each dataset (None: CASES), and the radius `eps` as a job file writes it (that of
    `usual_eps`). Without `compute` it only prints the costs. Returns the number of failed records; None if stopped.
    """

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    Store(out).job()  # raises here if there is none
    extra = planned(job, out, cases or CASES, _eps(eps), say, compute)
    root = root_of(out)
    outlook = plan.outlook(extra.grid, (), None, root)
    console.print(plan.table(outlook))
    units, most = list(extra.grid.units()), max(map(len, extra.own.cases.values()))
    passes = Counter[str]()
    for unit in units:
        passes[unit.cell.attack.name] += unit.passes
    say(f"{len(extra.grid.cells)} cells, {len(units)} units on at most {most} cases, {passes.total():,} window passes")
    if passes:
        say(f"most of them: {', '.join(f'{name} {count:,}' for name, count in passes.most_common(LARGEST))}")
    say(f"gradients: {num_passes(extra.own):,} window passes more, at most")
    for line in plan.lines(outlook):
        say(line)
    if not compute:
        return 0
    with trusting(job.trust_code):
        summary = run.execute(extra.grid, root, console, engine, address)
        try:
            if not summary.interrupted:
                measure_gradients(extra.own, extra.eps, out, say)
                rescore_saved(extra.own, out, say)
                return summary.num_failed
        except KeyboardInterrupt:
            pass
    say(f"stopped: results so far are in {root}, and the same command goes on")
    return None


def _eps(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(parse_value(text))
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value <= 1:
        raise UserError(f"--eps: expected a number in (0, 1] or a fraction like 8/255, got {text}")
    return value
