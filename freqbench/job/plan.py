"""Plans what is left of a grid in a store, and estimates what that costs; resuming and `status` start here too."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
from rich.table import Table

from freqbench.core import storage
from freqbench.core.machine import available_cores
from freqbench.core.types import CaseRef
from freqbench.job.grid import Cell, Grid, Unit
from freqbench.job.rehearsal import Missing
from freqbench.models import forward_flops, sliding_windows
from freqbench.results import Key, Store
from freqbench.results.volumes import VOLUMES

GPU_FLOPS = 10e12
TRIALS = 3
SCORING_S = 0.5  # distances of a small volume
MEASURED = ("run_id", "finished_at", "status", "source_model_id", "attack", "num_forwards", "num_backwards")
SECONDS = ("attack_seconds", "score_seconds")

Saved = Callable[[Cell, CaseRef], bool]
Covered = Mapping[Key, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is left of a grid.

    Attributes:
        grid: all of it.
        units: what is to do, with the targets that have no row yet.
        num_done: records that are there already.
        metrics: the grid's, and those of the rows that will be computed anew, so that no row loses a column.
    """

    grid: Grid
    units: tuple[Unit, ...]
    num_done: int
    metrics: tuple[str, ...]

    @property
    def num_todo(self) -> int:
        """Records that are still to come."""
        return sum(len(unit.targets) for unit in self.units)


def make_plan(grid: Grid, covered: Covered, again: Collection[Key] = ()) -> Plan:
    """What is left of a grid, given the metrics that each good row covers, and keys to compute anew all the same."""
    wanted = frozenset(grid.metrics)
    units, num_done, former = [], 0, set[str]()
    for cell in grid.cells:
        name = cell.dataset.name
        for ref, case_key in zip(grid.cases[name], grid.case_keys[name], strict=True):
            missing = []
            for target in cell.targets:
                key = cell.cell_id, case_key, target.model_id
                present = covered.get(key)
                if present is None or not wanted <= present or key in again:
                    missing.append(target)
                    former |= present or frozenset()
            num_done += len(cell.targets) - len(missing)
            if missing:
                units.append(Unit(cell=cell, ref=ref, targets=tuple(missing)))
    metrics = (*grid.metrics, *sorted(former - wanted))
    return Plan(grid=grid, units=tuple(units), num_done=num_done, metrics=metrics)


def current_plan(grid: Grid, covered: Covered, is_saved: Saved | None = None) -> Plan:
    """What is left of a grid, given what a store has (`Store.covered`).

    `is_saved` tells whether the volume of a cell and case is there, without which a unit does not count as done; None:
    its rows are enough.
    """
    unsaved = set()
    if is_saved and covered:
        units = (unit for unit in grid.units() if not is_saved(unit.cell, unit.ref))
        unsaved = {unit.cell.key(unit.ref, target) for unit in units for target in unit.targets}
    return make_plan(grid, covered, again=unsaved)


def volumes_root(grid: Grid, out: str) -> str | None:
    """Where the volumes of a grid are saved; None if its job saves none."""
    return storage.join(out, VOLUMES) if grid.job.save_adversarial == "nifti" else None


def table(grid: Grid) -> Table:
    """Cells, cases and passes over windows of each dataset, source and attack."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for unit in grid.units():
        key = unit.cell.dataset.name, unit.cell.source.name, unit.cell.attack.name
        row = rows.setdefault(key, [0, 0, 0])
        row[1] += 1
        row[2] += unit.passes
    for cell in grid.cells:
        rows[cell.dataset.name, cell.source.name, cell.attack.name][0] += 1
    found = Table("dataset", "source", "attack", "cells", "cases", "window passes", title=f"{grid.job.name}: the grid")
    for key, (cells, units, passes) in rows.items():
        found.add_row(*key, str(cells), str(units // cells), str(passes))
    return found


def lines(
    grid: Grid, lacking: Sequence[Missing], is_saved: Saved | None, out: str, price: float | None = None
) -> Iterator[str]:
    """What is warned of, missing (the grid has stand-ins for it), done and left; `is_saved` as of `current_plan`.

    With the price of a worker's hour, what is left is priced too.
    """
    for warning in grid.warnings:
        yield f"warning: {warning}"
    if lacking:
        yield from (f"{each.word}: {each}" for each in lacking)
        if all(each.word != Missing.word for each in lacking):
            yield "passes are counted on untrained networks in their place; which records are there shows once they are"
            return
        yield (
            "passes are counted on volumes of a usual size and on untrained networks in the place of what is missing; "
            "run --dry-data phantom tries this grid now"
        )
        return
    store = Store(out)
    todo = current_plan(grid, store.covered(), is_saved)
    yield f"{todo.num_done} of {todo.num_done + todo.num_todo} records are in {store.root}"
    if todo.units:
        hours, basis = _hours(todo, store)
        cost = "" if price is None else f", {price * hours:,.2f} at {price:g}/h"
        yield f"about {_spoken(hours)} left on one worker ({basis}){cost}"


def _hours(plan: Plan, store: Store) -> tuple[float, str]:
    """Hours that one worker needs for a rest that is not empty, and what that is based on.

    Where the store has rows: their seconds a pass of each source model and attack, and a record to score, in the latest
    run, as an older one may have had another machine. Where it lacks them: counted operations over the rate that the
    cores reach now, beside all else that they do, or that a card usually reaches: right to a factor of some five.
    """
    a_pass, a_record = _measured(store)
    models = {model.model_id: model for unit in plan.units for model in (unit.cell.source, *unit.targets)}
    forward = {model_id: forward_flops(model) for model_id, model in models.items()}
    rate = _rate()
    seconds, is_rough = 0.0, False
    for unit in plan.units:
        source = unit.cell.source.model_id
        known = a_pass.get((source, unit.cell.attack.name)) or a_pass.get((source, None))
        is_rough |= a_record is None or (unit.passes > 0 and known is None)
        seconds += unit.passes * (known or forward[source] / rate)
        for target in unit.targets:
            shape = unit.cell.dataset.shape_in(unit.ref, target.space)
            windows = len(sliding_windows(shape, target.roi, target.inference.overlap))
            passes = windows * 2 ** len(target.inference.mirror) * target.predictions
            predicting = passes * forward[target.model_id] / rate
            seconds += predicting + SCORING_S if a_record is None else a_record
    return (
        seconds / 3600,
        "rough: counted operations, at this machine's speed now" if is_rough else "from the rows that are there",
    )


def _rate() -> float:
    """Floating-point operations a second of this machine: a card's usual ones, else those of a convolution now."""
    import torch

    if torch.cuda.is_available():
        return GPU_FLOPS
    images, kernel, threads = torch.rand(1, 32, 32, 32, 32), torch.rand(32, 32, 3, 3, 3), torch.get_num_threads()
    torch.set_num_threads(available_cores())
    with torch.inference_mode():
        for trial in range(TRIALS + 1):
            if trial == 1:  # the first one also sets up
                started = time.perf_counter()
            torch.nn.functional.conv3d(images, kernel, padding=1)
    seconds = time.perf_counter() - started
    torch.set_num_threads(threads)
    return TRIALS * 2 * kernel.numel() * images[0, 0].numel() / seconds


def _measured(store: Store) -> tuple[dict[tuple[str, str | None], float], float | None]:
    """Seconds a pass of each source model by each attack, and by any (None); and a record to score: of the latest run.

    Of each that is the latest run with rows of it.
    """
    rows = store.records((*MEASURED, *SECONDS))
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    passes = pc.fill_null(pc.add(rows["num_forwards"], rows["num_backwards"]), 0)
    sums = [("finished_at", "max"), *((name, "sum") for name in (*SECONDS, "passes")), ("score_seconds", "count")]
    grouped = rows.append_column("passes", passes).group_by(["run_id", "source_model_id", "attack"]).aggregate(sums)
    a_pass: dict[tuple[str, str | None], float] = {}
    a_record = None
    for row in sorted(grouped.to_pylist(), key=lambda row: row["finished_at_max"]):
        if row["score_seconds_count"]:
            a_record = row["score_seconds_sum"] / row["score_seconds_count"]
        if row["passes_sum"] and row["attack_seconds_sum"]:
            a_pass[row["source_model_id"], row["attack"]] = row["attack_seconds_sum"] / row["passes_sum"]
            a_pass[row["source_model_id"], None] = row["attack_seconds_sum"] / row["passes_sum"]
    return a_pass, a_record


def _spoken(hours: float) -> str:
    """Hours as a person says them.

    >>> _spoken(0.001), _spoken(0.5), _spoken(12.34)
    ('1 minute', '30 minutes', '12 hours')
    """
    if hours >= 1:
        return f"{hours:.2g} hours"
    minutes = max(1, round(60 * hours))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"
