"""Plans the rest of a grid for a store, and estimates its cost; resuming and `status` start here too."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc
import torch
from rich.table import Table

from freqbench.attacks import ATTACKS
from freqbench.core.errors import DataError
from freqbench.core.files import storage
from freqbench.core.input_space import Preprocess
from freqbench.core.machine import available_cores
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.data.base import counted_patients
from freqbench.data.loaders.phantom import Phantom
from freqbench.job.cells import Cell, Unit
from freqbench.job.grid import Grid
from freqbench.job.rehearsal import Missing
from freqbench.models import forward_flops, num_windows
from freqbench.results import Key, Store
from freqbench.results.volumes import VOLUMES

GPU_FLOPS = 10e12
TRIALS = 3
READ_FIRST = 20  # cases per dataset whose voxels are checked before the first attack; thousands would delay a run
CHECK_S = 20.0  # time after which a plan reads no further case
SCORING_S = 0.5  # time for the distances of a small volume
MEASURED = ("run_id", "finished_at", "status", "source_model_id", "attack", "num_forwards", "num_backwards")
SECONDS = ("attack_seconds", "score_seconds")

Saved = Callable[[Cell, CaseRef], bool]
Covered = Mapping[Key, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The part of a grid that is still to compute."""

    grid: Grid  # the whole grid
    units: tuple[Unit, ...]  # units to run, with the targets that have no row yet
    num_done: int  # records that exist already
    metrics: tuple[str, ...]  # the grid's, and those of rows that are computed anew, so that no row loses a column

    @property
    def num_todo(self) -> int:
        """Number of records still to compute."""
        return sum(len(unit.targets) for unit in self.units)


def make_plan(grid: Grid, covered: Covered, is_saved: Saved | None = None) -> Plan:
    """Plans the rest of a grid, given the metrics that each good row of a store covers (`Store.covered`).

    `is_saved` tells if the volume of a cell and case exists; a unit without its volume is not done. If None, rows are
    enough.
    """
    wanted = frozenset(grid.metrics)
    units, num_done, former = [], 0, set[str]()
    for cell in grid.cells:
        name = cell.dataset.name
        for ref, case_key in zip(grid.cases[name], grid.case_keys[name], strict=True):
            missing, lacks_volume = [], bool(covered) and is_saved is not None and not is_saved(cell, ref)
            for target in cell.targets:
                present = covered.get((cell.cell_id, case_key, target.model_id))
                if present is None or not wanted <= present or lacks_volume:
                    missing.append(target)
                    former |= present or frozenset()
            num_done += len(cell.targets) - len(missing)
            if missing:
                units.append(Unit(cell=cell, ref=ref, targets=tuple(missing)))
    return Plan(grid=grid, units=tuple(units), num_done=num_done, metrics=(*grid.metrics, *sorted(former - wanted)))


def first_cases(units: Iterable[Unit]) -> Iterator[tuple[Dataset, CaseRef, Preprocess]]:
    """Yields the first READ_FIRST cases of each dataset and space of a source, with that space."""
    looked_at = defaultdict[tuple[str, str], set[str]](set)
    for unit in units:
        dataset, space = unit.cell.dataset, unit.cell.source.space or unit.cell.dataset.space
        case_ids = looked_at[dataset.name, str(space)]
        if unit.ref.case_id not in case_ids and len(case_ids) < READ_FIRST:
            case_ids.add(unit.ref.case_id)
            yield dataset, unit.ref, space


def data_check(cases: Iterable[tuple[Dataset, CaseRef, Preprocess]]) -> Iterator[str]:
    """Yields a line per problem with the voxels of cases: damage, intensities off the window, lost label voxels.

    Reads cases from files, prepares them and stops after CHECK_S seconds; synthetic ones need no check.
    """
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
    """Summary of a grid for `plan`; the fields are the keys of `plan --json`.

    `grid` has for each dataset, source and attack `cells`, `cases` of a cell, `window_passes` of all cells; `draws`,
    predictions of whole volumes by targets that smooth, beside these passes; and `recomputed`, the most windows of a
    volume that a step runs forward twice, as their graphs take too much. Things that this machine lacks are `missing`:
    the grid has stand-ins for them, and records, hours and cost are None.
    """

    job: str  # its name
    out: str  # the store
    grid: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]  # one line each
    patients: Mapping[str, str]  # numbers of both, in words, for each dataset some of whose cases share a patient
    missing: tuple[Missing, ...]
    notes: tuple[str, ...] = ()  # one line per thing that was concluded about the datasets' files
    records_done: int | None = None  # records in the store
    records_left: int | None = None  # records still to compute
    hours_left: float | None = None  # hours of one worker
    basis: str | None = None  # basis of the hours; None if no record is left
    price: float | None = None  # price of a worker's hour, as given
    cost: float | None = None  # price of all the hours


def outlook(
    grid: Grid, lacking: Sequence[Missing], is_saved: Saved | None, out: str, price: float | None = None
) -> Outlook:
    """Counts a grid's missing, done and remaining parts; `is_saved` as in `make_plan`, `price` per worker's hour."""
    store = Store(out)
    summary = Outlook(
        job=grid.job.name,
        out=store.root,
        grid=tuple(_counted(grid)),
        notes=grid.notes,
        patients={
            name: counted_patients([ref.patient_id for ref in refs])
            for name, refs in grid.cases.items()
            if len({ref.patient_id for ref in refs}) < len(refs)
        },
        warnings=(*grid.warnings, *(() if lacking else dict.fromkeys(data_check(first_cases(grid.units()))))),
        missing=tuple(lacking),
        price=price,
    )
    if lacking:
        return summary
    todo = make_plan(grid, {} if store.is_empty else store.covered(), is_saved)
    hours, basis = _hours(todo, store) if todo.units else (0.0, None)
    cost = None if price is None else price * hours
    return replace(
        summary, records_done=todo.num_done, records_left=todo.num_todo, hours_left=hours, basis=basis, cost=cost
    )


def _counted(grid: Grid) -> Iterator[dict[str, Any]]:
    rows = defaultdict[tuple[str, str, str], list[int]](lambda: [0] * 5)
    for unit in grid.units():
        row = rows[unit.cell.dataset.name, unit.cell.source.name, unit.cell.attack.name]
        row[1] += 1
        row[2] += unit.passes
        row[3] += sum(target.predictions for target in unit.targets if target.predictions > 1)
        row[4] = max(row[4], *map(unit.recomputed_windows, unit.cell.models))
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
    for warning in found.warnings:
        yield f"warning: {warning}"
    for note in found.notes:
        yield f"note: {note}"
    for name, counted in found.patients.items():
        yield f"{name}: {counted}, over whom intervals are taken"
    recomputed = {f"{row['source']} on {row['dataset']}": row["recomputed"] for row in found.grid if row["recomputed"]}
    for where, windows in recomputed.items():
        yield f"{where}: {windows} windows of a volume run forward twice a step: their graphs do not fit"
    if found.missing:
        yield from (f"{thing.word}: {thing}" for thing in found.missing)
        stand_ins = "untrained networks in their place; records are counted once they exist"
        if any(thing.word == Missing.word for thing in found.missing):
            stand_ins = "volumes of a usual size and on untrained networks in the place of what is missing; "
            stand_ins += "run --dry-data phantom tries this grid now"
        yield f"passes are counted on {stand_ins}"
        return
    done, left = found.records_done or 0, found.records_left or 0
    yield f"{done} of {done + left} records are in {found.out}"
    if left:
        price = "" if found.cost is None else f", {found.cost:,.2f} at {found.price:g}/h"
        yield f"about {_spoken(found.hours_left or 0.0)} left on one worker ({found.basis}){price}"


def _hours(plan: Plan, store: Store) -> tuple[float, str]:
    """Returns the hours that one worker needs for the rest of a plan, and the basis of this estimate.

    If the store has rows: their seconds per pass for each source model and attack, and seconds to score a record, from
    the latest run, as an older run may have used another machine. Otherwise: counted operations divided by the rate
    that the cores reach now, beside their other load, or that a GPU usually reaches; right to a factor of about five.
    """
    a_pass, a_record = _measured(store)
    models = {model.model_id: model for unit in plan.units for model in (*unit.cell.models, *unit.targets)}
    forward = {model_id: forward_flops(model) for model_id, model in models.items()}
    rate = _rate()
    seconds, is_rough, learning, predicted = 0.0, False, set[str](), set[tuple[CaseRef, str]]()
    for unit in plan.units:
        source, passes = unit.cell.source.model_id, unit.passes_on(unit.cell.source)
        if unit.cell.cell_id not in learning:
            learning.add(unit.cell.cell_id)
            passes += unit.cell.learning_passes
        seconds_a_pass = a_pass.get((source, unit.cell.attack.name)) or a_pass.get((source, None))
        is_rough |= a_record is None or (passes > 0 and seconds_a_pass is None)
        if seconds_a_pass:
            seconds += passes * seconds_a_pass
        else:
            beside = sum(unit.passes_on(model) * forward[model.model_id] for model in unit.cell.surrogates)
            seconds += (passes * forward[source] + beside) / rate
        for target in unit.targets:
            shape = unit.cell.dataset.shape_in(unit.ref, target.space)
            windows = num_windows(target, shape, unit.ref)
            volumes = target.predictions
            if (unit.ref, target.model_id) not in predicted:
                predicted.add((unit.ref, target.model_id))
                volumes += target.predictions  # of the clean volume
            passes = windows * 2 ** len(target.inference.mirror) * volumes
            predicting = passes * forward[target.model_id] / rate
            seconds += predicting + SCORING_S if a_record is None else a_record
    rough = "rough: counted operations, at this machine's speed now"
    return seconds / 3600, rough if is_rough else "from the store's rows"


def _rate() -> float:
    """Returns this machine's floating-point operations per second: a typical GPU's, else those of a convolution now."""
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
    """Returns seconds per pass of each source model by each attack, and by any (None); and seconds per record."""
    if store.is_empty:
        return {}, None
    rows = store.records((*MEASURED, *SECONDS))
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    passes = pc.fill_null(pc.add(rows["num_forwards"], rows["num_backwards"]), 0)
    sums = [("finished_at", "max"), *((name, "sum") for name in (*SECONDS, "passes")), ("score_seconds", "count")]
    grouped = rows.append_column("passes", passes).group_by(["run_id", "source_model_id", "attack"]).aggregate(sums)
    a_pass: dict[tuple[str, str | None], float] = {}
    a_record = None
    by_surrogates = {name for name, attack in ATTACKS.items() if attack.needs_surrogates}
    for row in sorted(grouped.to_pylist(), key=lambda row: row["finished_at_max"]):  # the latest run counts
        if row["score_seconds_count"]:
            a_record = row["score_seconds_sum"] / row["score_seconds_count"]
        if row["passes_sum"] and row["attack_seconds_sum"]:
            seconds = row["attack_seconds_sum"] / row["passes_sum"]
            a_pass[row["source_model_id"], row["attack"]] = seconds
            if row["attack"] not in by_surrogates:  # whose seconds include other networks
                a_pass[row["source_model_id"], None] = seconds
    return a_pass, a_record


def _spoken(hours: float) -> str:
    """Formats hours for reading.

    >>> _spoken(0.001), _spoken(0.5), _spoken(12.34)
    ('1 minute', '30 minutes', '12 hours')
    """
    if hours >= 1:
        return f"{hours:.2g} hours"
    minutes = max(1, round(60 * hours))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"
