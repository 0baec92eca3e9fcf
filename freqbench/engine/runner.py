"""One run: plan what is left, carry it out, store rows as they come, and leave a record of the run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console

from freqbench import storage
from freqbench.engine import facts, serial, volumes
from freqbench.engine.progress import RunProgress
from freqbench.engine.rows import Outcome
from freqbench.engine.worker import WorkerSpec
from freqbench.errors import UserError
from freqbench.grid import Grid, Plan, make_plan
from freqbench.job import JobSpec
from freqbench.metrics import LpipsUnavailable, prepare_lpips
from freqbench.results import Lease, Store

COMPACT_ABOVE = 64
COMMIT_EVERY_S = 5.0
VOLUMES = "volumes"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes:
        run_id: of the run; None where there was nothing to do.
        num_done: records that were there before.
        num_new: records that this run stored.
        num_failed: of those, the ones without scores.
        seconds: of the run.
        interrupted: whether it was stopped by the user.
    """

    run_id: str | None
    num_done: int
    num_new: int
    num_failed: int
    seconds: float
    interrupted: bool


def current_plan(grid: Grid, store: Store, saved_in: str | None = None) -> Plan:
    """What is left of a grid in a store; resuming, planning and status are this one function.

    Args:
        grid: all of it.
        store: with the rows that are there.
        saved_in: where a unit must also have left its volume to count as done; None: its rows are enough.
    """
    covered = store.covered()
    unsaved = {
        unit.cell.key(unit.ref, target)
        for unit in (grid.units() if saved_in and covered else ())
        if not volumes.is_saved(str(saved_in), unit.cell, unit.ref)
        for target in unit.targets
    }
    return make_plan(grid, covered, again=unsaved)


def volumes_root(job: JobSpec, out: str) -> str | None:
    """Where a job saves its volumes; None if it saves none."""
    return storage.join(out, VOLUMES) if job.save_adversarial == "nifti" else None


def execute(job: JobSpec, grid: Grid, out: str, console: Console) -> Summary:
    """Run what is left of a job into a result store.

    Raises:
        UserError: the store cannot be read.
    """
    store = Store(out)
    store.compact(above=COMPACT_ABOVE)
    root = volumes_root(job, out)
    plan = current_plan(grid, store, root)
    content = _with_scored({"spec": job.model_dump(mode="json"), "index": grid.index()}, _scored(store))
    store.write_job(content)
    summary = _Run(job, store, plan, console).carry_out(WorkerSpec(run_id="", metrics=plan.metrics, volumes=root))
    if summary.run_id:
        store.write_job(content)  # again, as the list of runs has grown
    return summary


def rescore(job: JobSpec, grid: Grid, out: str, console: Console) -> Summary:
    """Score the saved adversarial volumes of a store on the grid's targets; nothing is attacked.

    Raises:
        UserError: the store cannot be read, or holds no volume of this grid.
    """
    store = Store(out)
    root = storage.join(out, VOLUMES)
    plan = current_plan(grid, store)
    saved = tuple(unit for unit in plan.units if volumes.is_saved(root, unit.cell, unit.ref))
    if plan.units and not saved:
        raise UserError(f"{root}: expected saved volumes of this job, found none: run it with save_adversarial: nifti")
    if len(saved) < len(plan.units):
        console.print(f"{len(plan.units) - len(saved)} units have no saved volume and are left out", highlight=False)
    spec = WorkerSpec(run_id="", metrics=plan.metrics, volumes=root, reuse=True)
    summary = _Run(job, store, replace(plan, units=saved), console).carry_out(spec)
    scored = _scored(store)
    for cell in grid.cells:
        scored[cell.cell_id] = list(dict.fromkeys([*scored.get(cell.cell_id, []), *(t.model_id for t in cell.targets)]))
    store.write_job(_with_scored(store.job(), scored))
    return summary


def _scored(store: Store) -> dict[str, list[str]]:
    """The further targets that `rescore` gave to cells of a store, by cell id."""
    if not storage.exists(storage.join(store.root, "run.json")):
        return {}
    scored: dict[str, list[str]] = store.job().get("scored", {})
    return scored


def _with_scored(content: dict[str, Any], scored: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A job's content whose index, and so every report, has the further targets of its cells."""
    for cell in content["index"]["cells"]:
        cell["targets"] = list(dict.fromkeys([*cell["targets"], *scored.get(cell["cell_id"], [])]))
    return {**content, "scored": dict(scored)}


class _Run:
    """One execution: its id, its file, its lease, and what becomes of outcomes."""

    def __init__(self, job: JobSpec, store: Store, plan: Plan, console: Console) -> None:
        self._job = job
        self._store = store
        self._plan = plan
        self._console = console
        self._run_id = facts.new_run_id()
        self._facts: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._lease = Lease(store.root, self._run_id)
        self._writer = store.writer(self._run_id, COMMIT_EVERY_S)
        self._progress = RunProgress(plan, console)
        self._num_stored = self._num_failed = 0

    def carry_out(self, spec: WorkerSpec) -> Summary:
        started = time.monotonic()
        if not self._plan.units:
            return self._summary(None, started, interrupted=False)
        unavailable = self._unavailable(spec.metrics)
        spec = replace(spec, run_id=self._run_id, unavailable=unavailable, **self._resources())
        for text in self._plan.grid.warnings:
            self._warn(text)
        self._warn_of_other(self._lease.take())
        self._facts = {"job": self._job.model_dump(mode="json"), **facts.collect(self._plan.grid)}
        self._record("running")
        status = "died"
        try:
            with self._progress:
                try:
                    serial.run(self._plan.units, spec, self._progress.begin, self._take)
                    status = "done"
                except KeyboardInterrupt:
                    status = "interrupted"
                finally:
                    self._committed(self._writer.flush())
        finally:
            self._record(status)
            self._lease.release()
        if status == "done":
            self._store.compact()
        return self._summary(self._run_id, started, interrupted=status == "interrupted")

    def _take(self, outcome: Outcome) -> None:
        """Hand an outcome's rows to the writer; they are done once it has committed them."""
        if outcome.failed:
            self._num_failed += len(outcome.records)
        self._progress.finish(outcome)
        self._committed(self._writer.add(outcome.records, outcome.flat_class_records()))

    def _committed(self, count: int) -> None:
        self._progress.store(count)
        if count:
            self._num_stored += count
            self._lease.take()
            self._record("running")

    def _resources(self) -> dict[str, Any]:
        resources = self._job.resources
        threads = facts.available_cores() if resources.threads == "auto" else resources.threads
        batch = None if self._job.window_batch == "auto" else self._job.window_batch
        return {"device": "cuda" if torch.cuda.is_available() else "cpu", "threads": threads, "window_batch": batch}

    def _unavailable(self, metrics: Sequence[str]) -> Mapping[str, str]:
        """Metrics that cannot be computed here, said once."""
        if "lpips" not in metrics:
            return {}
        try:
            prepare_lpips()
        except LpipsUnavailable as error:
            self._warn(f"{error}; the columns of LPIPS stay empty")
            return {"lpips": str(error)}
        return {}

    def _warn_of_other(self, holder: Mapping[str, Any] | None) -> None:
        if holder:
            self._warn(
                f"run {holder['run_id']} (host {holder.get('host')}, pid {holder.get('pid')}) writes to "
                f"{self._store.root} now: rows stay right, but work is done twice"
            )

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._console.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _record(self, status: str) -> None:
        """Write the run's own file."""
        progress = {"status": status, "records": self._num_stored, "failed": self._num_failed}
        self._store.write_run(
            self._run_id, {**self._facts, **progress, "warnings": self._warnings, "heartbeat": facts.now()}
        )

    def _summary(self, run_id: str | None, started: float, interrupted: bool) -> Summary:
        return Summary(
            run_id=run_id,
            num_done=self._plan.num_done,
            num_new=self._num_stored,
            num_failed=self._num_failed,
            seconds=time.monotonic() - started,
            interrupted=interrupted,
        )
