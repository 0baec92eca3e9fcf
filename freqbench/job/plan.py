"""Plans the rest of a grid for a store, and estimates its cost; resuming and `status` start here too."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from freqbench.core.code import steady
from freqbench.core.errors import DataError
from freqbench.core.files import storage
from freqbench.core.terminal import amount
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.data.loaders.phantom import Phantom
from freqbench.data.patients import counted_patients
from freqbench.job import costs
from freqbench.job.cells import Cell, Unit
from freqbench.job.grid import Grid
from freqbench.job.rehearsal import Missing
from freqbench.models import ModelSpec
from freqbench.pipelines import AnySpace
from freqbench.results import Key, Store
from freqbench.results.volumes import VOLUMES

READ_FIRST = 20  # cases per dataset whose voxels are checked before the first attack; thousands would delay a run
CHECK_S = 20.0  # time after which a plan reads no further case
Saved = Callable[[Cell, CaseRef], bool]
Covered = Mapping[Key, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The part of a grid that is still to compute."""

    grid: Grid  # the whole grid
    units: tuple[Unit, ...]  # units to run, with the targets that have no row yet
    num_done: int  # records that exist already
    metrics: tuple[str, ...]  # the grid's, and those of rows that are computed anew, so that no row loses a column
    num_unsaved: int = 0  # records to compute anew because only their volume is missing
    clean: tuple[Unit, ...] = ()  # clean predictions to make and to judge before all units

    @property
    def notes(self) -> tuple[str, ...]:
        """One line if records are complete but for their volumes."""
        if not self.num_unsaved:
            return ()
        records = f"{amount(self.num_unsaved, 'record')} {'has' if self.num_unsaved == 1 else 'have'}"
        why = "their attacks run again to make them, and the rows are computed anew with them"
        return (f"{records} all scores but no saved volume (save_adversarial): {why}",)

    @property
    def num_todo(self) -> int:
        """Number of records still to compute."""
        return sum(len(unit.targets) for unit in self.units)


def make_plan(grid: Grid, covered: Covered, is_saved: Saved | None = None) -> Plan:
    """Plans the rest of a grid.

    Args:
        grid: all cells, or those of a shard.
        covered: the metrics that each good row of a store covers, by its key.
        is_saved: True for a cell and a case whose volume is saved; None: none has to be.

    Raises UserError if a package of a metric that rows lose otherwise is missing.
    """
    wanted = frozenset(grid.metrics)
    units = []
    num_done = 0
    num_unsaved = 0
    former: set[str] = set()
    for cell in grid.cells:
        name = cell.dataset.name
        for ref, case_key in zip(grid.cases[name], grid.case_keys[name], strict=True):
            missing: list[ModelSpec] = []
            lacks_volume = bool(covered) and is_saved is not None and cell.saves and not is_saved(cell, ref)
            for target in cell.targets:
                present = covered.get((cell.cell_id, case_key, target.model_id))
                is_scored = present is not None and wanted <= present
                if not is_scored or lacks_volume:
                    missing.append(target)
                    former |= present or frozenset()
                    num_unsaved += is_scored
            num_done += len(cell.targets) - len(missing)
            if missing:
                units.append(Unit(cell=cell, ref=ref, targets=tuple(missing)))
    kept = {text for text in former - wanted if "@" not in text}
    if of_packages := former - wanted - kept:
        from freqbench.metrics import added

        names = {*map(added.name_of, wanted)}  # as they are installed here
        kept |= {added.resolved(text) for text in of_packages if added.name_of(text) not in names}
    metrics = (*grid.metrics, *sorted(kept))
    return Plan(grid=grid, units=tuple(units), num_done=num_done, metrics=metrics, num_unsaved=num_unsaved)


def first_cases(units: Iterable[Unit]) -> Iterator[tuple[Dataset, CaseRef, AnySpace]]:
    """Yields the first READ_FIRST cases, among those of `units`, of each dataset and space of a source, with that
    space."""
    looked_at = defaultdict[tuple[str, str], set[str]](set)
    for unit in units:
        cell = unit.cell
        ref = unit.ref
        dataset = cell.dataset
        space = cell.source.space or dataset.space
        case_ids = looked_at[dataset.name, str(space)]
        case_id = ref.case_id
        if case_id not in case_ids and len(case_ids) < READ_FIRST:
            case_ids.add(case_id)
            yield dataset, ref, space


def data_check(cases: Iterable[tuple[Dataset, CaseRef, AnySpace]]) -> Iterator[str]:
    """Yields a line per problem with the voxels of cases read from files, prepared until CHECK_S seconds are over."""
    started = time.monotonic()
    for dataset, ref, space in cases:
        if not isinstance(dataset, Phantom) and time.monotonic() - started < CHECK_S:
            try:
                case = dataset.load(ref, space)
            except DataError as error:
                yield str(error)
            else:
                yield from (f"{ref.case_id} of {dataset.name}: {line}" for line in (*case.off_scale, *case.lost))


def volumes_root(grid: Grid, out: str) -> str | None:
    """Returns the folder for a grid's volumes; None if its job saves none."""
    return storage.join(out, VOLUMES) if grid.job.save_adversarial == "nifti" else None


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Summary of a grid for `plan`; the fields are the keys of `plan --json`. `grid` has for each dataset, source and
    attack `cells`, `cases` of a cell, `window_passes` of all cells; `draws`, predictions of whole volumes by targets
    that smooth, beside these passes; and `recomputed`, the most windows of a volume that a step runs forward twice, as
    their graphs take too much. Things that this machine lacks are `missing`: the grid has stand-ins for them, and
    records, hours and cost are None."""

    job: str  # its name
    out: str  # the store
    grid: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]  # one line each
    patients: Mapping[str, str]  # numbers of both, in words, for each dataset some of whose cases share a patient
    missing: tuple[Missing, ...]
    notes: tuple[str, ...] = ()  # one line per thing that was concluded about the files of datasets and of the store
    records_done: int | None = None  # records in the store
    records_left: int | None = None  # records still to compute
    hours_left: float | None = None  # hours of one worker
    basis: str | None = None  # basis of the hours; None if no record is left
    price: float | None = None  # price of a worker's hour, as given
    cost: float | None = None  # price of all the hours


@steady()
def outlook(grid: Grid, lacks: Sequence[Missing], saved: Saved | None, out: str, price: float | None = None) -> Outlook:
    """Counts a grid's missing, done and remaining parts.

    Args:
        grid: the grid, on stand-ins for what is missing.
        lacks: data and checkpoints that this machine lacks; with any, nothing is counted as done.
        saved: as `is_saved` of `make_plan`.
        out: the result store, a folder or URI, which need not exist.
        price: price of a worker's hour; None: no cost.
    """
    store = Store(out)
    warnings = () if lacks else dict.fromkeys(data_check(first_cases(grid.units())))
    patients: dict[str, str] = {}
    for name, refs in grid.cases.items():
        of_cases = [ref.patient_id for ref in refs]
        if len({*of_cases}) < len(refs):
            patients[name] = counted_patients(of_cases)
    summary = Outlook(
        job=grid.job.name,
        out=store.root,
        grid=tuple(_count_rows(grid)),
        notes=grid.notes,
        patients=patients,
        warnings=(*grid.warnings, *warnings),
        missing=tuple(lacks),
        price=price,
    )
    if lacks:
        return summary
    todo = make_plan(grid, {} if store.is_empty else store.covered(), saved)
    estimate = costs.estimate_costs(todo.units, todo.metrics, store)
    hours = estimate.total / 3600
    notes = (*summary.notes, *todo.notes)
    cost = None if price is None else price * hours
    summary = replace(summary, notes=notes, records_done=todo.num_done, records_left=todo.num_todo)
    return replace(summary, hours_left=hours, basis=estimate.basis, cost=cost)


def _count_rows(grid: Grid) -> Iterator[dict[str, Any]]:
    rows = defaultdict[tuple[str, str, str], list[int]](lambda: [0] * 5)
    for unit in grid.units():
        cell = unit.cell
        row = rows[cell.dataset.name, cell.source.name, cell.attack.name]
        row[1] += 1
        row[2] += unit.passes
        row[3] += sum(target.predictions for target in unit.targets if target.predictions > 1)
        row[4] = max(row[4], *map(unit.recomputed_windows, cell.models))
    for cell in grid.cells:
        row = rows[cell.dataset.name, cell.source.name, cell.attack.name]
        row[0] += 1
        row[2] += cell.learning_passes
    for (dataset, source, attack), (cells, units, passes, draws, recomputed) in rows.items():
        where = {"dataset": dataset, "source": source, "attack": attack, "cells": cells, "cases": units // cells}
        yield {**where, "window_passes": passes, "draws": draws, "recomputed": recomputed}


def table(found: Outlook) -> Table:
    """Tabulates cells, cases and passes over windows of each dataset, source and attack, and draws if there are any."""
    shown = ["dataset", "source", "attack", "cells", "cases", "window_passes"]
    shown += ["draws"] if any(row["draws"] for row in found.grid) else []
    grid_table = Table(*(name.replace("_", " ") for name in shown), title=f"{found.job}: the grid")
    for row in found.grid:
        grid_table.add_row(*(str(row[name]) for name in shown))
    return grid_table


def lines(found: Outlook) -> Iterator[str]:
    """Yields warnings, notes, patients, recomputed windows, missing things, done and left records, and the cost."""
    missing = found.missing
    yield from (f"warning: {warning}" for warning in found.warnings)
    yield from (f"note: {note}" for note in found.notes)
    yield from (f"{name}: {counted}, over whom intervals are taken" for name, counted in found.patients.items())
    recomputed = {f"{row['source']} on {row['dataset']}": row["recomputed"] for row in found.grid if row["recomputed"]}
    for where, windows in recomputed.items():
        yield f"{where}: {windows} windows of a volume run forward twice a step: their graphs do not fit"
    if missing:
        yield from (f"{thing.word}: {thing}" for thing in missing)
        stand_ins = "untrained networks in their place; records are counted once they exist"
        if any(thing.word == Missing.word for thing in missing):
            stand_ins = "volumes of a usual size and on untrained networks in the place of what is missing; "
            stand_ins += "run --dry-data phantom tries this grid now"
        yield f"passes are counted on {stand_ins}"
        return
    done = found.records_done or 0
    left = found.records_left or 0
    yield f"{done} of {amount(done + left, 'record')} {'is' if done + left == 1 else 'are'} in {found.out}"
    if left:
        price = "" if found.cost is None else f", {found.cost:,.2f} at {found.price:g}/h"
        yield f"about {spoken_hours(found.hours_left or 0.0)} left on one worker ({found.basis}){price}"


def spoken_hours(hours: float) -> str:
    """Formats hours for reading.

    >>> spoken_hours(0.001), spoken_hours(0.5), spoken_hours(1.01), spoken_hours(12.34)
    ('1 minute', '30 minutes', '1 hour', '12 hours')
    """
    if (told := f"{hours:.2g}") == "1":
        return "1 hour"
    if hours >= 1:
        return f"{told} hours"
    minutes = max(1, round(60 * hours))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"
