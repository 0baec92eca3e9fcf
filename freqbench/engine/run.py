"""One run: plan what is left, carry it out, store rows as they come, and leave a record of the run."""

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from rich.console import Console

from freqbench.core import storage
from freqbench.core.errors import UserError
from freqbench.core.machine import available_cores
from freqbench.data import cache
from freqbench.engine import additions, provenance, saved_volumes, serial
from freqbench.engine.additions import Additions
from freqbench.engine.fit import Fit
from freqbench.engine.listener import Listener
from freqbench.engine.progress import RunProgress
from freqbench.engine.resources import Node, room, share
from freqbench.engine.retry import Patience
from freqbench.engine.rows import Outcome
from freqbench.engine.summary import Summary
from freqbench.engine.worker import WorkerSpec
from freqbench.job.grid import Grid, Unit
from freqbench.job.plan import Plan, current_plan, volumes_root
from freqbench.job.schema import JobSpec
from freqbench.metrics import LpipsUnavailable, prepare_lpips
from freqbench.models import step_bytes
from freqbench.results import Lease, Shard, Store
from freqbench.results.volumes import VOLUMES

COMPACT_ABOVE = 64
COMMIT_EVERY_S = 5.0
HEARTBEAT_S = 20.0
Engine = Literal["auto", "ray", "serial"]
Work = Callable[[WorkerSpec, Listener], None]


def execute(
    job: JobSpec,
    grid: Grid,
    out: str,
    console: Console,
    engine: Engine = "auto",
    address: str | None = None,
    shard: Shard | None = None,
    force: bool = False,
) -> Summary:
    """Run what is left of a job into a result store.

    Args:
        job: what was asked for.
        grid: what it came to.
        out: folder or URI of the store.
        console: where progress goes.
        engine: `ray`, `serial`, or `auto`: Ray where it is installed and more than one worker pays.
        address: of a Ray cluster; None: the one that RAY_ADDRESS names, else one of this process's own.
        shard: the part of the grid that this run is for; None: all of it. The store's job is the whole grid's.
        force: run though another run works on the same cells.

    Raises:
        UserError: FREQBENCH_CACHE_GB is no number, the store cannot be read, another run works on the same cells, the
            cluster cannot be reached, no worker starts, or the store has refused rows for long.
    """
    cache.limit()  # refused here, not once a case
    store = Store(out)
    store.compact(above=COMPACT_ABOVE)
    root = volumes_root(job, out)
    shard = shard or Shard()
    plan = current_plan(grid.shard(shard), store, saved_volumes.saved(root) if root else None)
    content = additions.of_store(store).onto({"spec": job.model_dump(mode="json"), "index": grid.index()})
    store.write_job(content)
    spec = WorkerSpec(run_id="", metrics=plan.metrics, volumes=root, trust_code=job.trust_code)
    run = _Run(job, store, plan, console, shard)
    lease = run.lease(force) if plan.units else nullcontext()
    with lease:
        summary = run.carry_out(spec, engine, address)
    if summary.run_id:
        store.write_job(content)  # again, as the list of runs has grown
    return summary


def rescore(job: JobSpec, grid: Grid, out: str, console: Console, added: Additions | None = None) -> Summary:
    """Score the saved adversarial volumes of a store on the grid's targets; nothing is attacked.

    Args:
        job: that made the volumes.
        grid: of cells with the targets that are wanted.
        out: folder or URI of the store.
        console: where progress goes.
        added: what the store's job has beside its own grid; None: as the store says.

    Raises:
        UserError: the store cannot be read, or holds no volume of this grid; FREQBENCH_CACHE_GB is no number.
    """
    cache.limit()
    store = Store(out)
    root = storage.join(out, VOLUMES)
    plan = current_plan(grid, store)
    is_saved = saved_volumes.saved(root)
    saved = tuple(unit for unit in plan.units if is_saved(unit.cell, unit.ref))
    if plan.units and not saved:
        raise UserError(f"{root}: expected saved volumes of this job, found none: run it with save_adversarial: nifti")
    if len(saved) < len(plan.units):
        console.print(f"{len(plan.units) - len(saved)} units have no saved volume and are left out", highlight=False)
    spec = WorkerSpec(run_id="", metrics=plan.metrics, volumes=root, reuse=True, trust_code=job.trust_code)
    summary = _Run(job, store, replace(plan, units=saved), console).carry_out(spec, "auto")
    additions.write(store, job, (added or additions.of_store(store)).with_targets(grid))
    return summary


def carry_out(job: JobSpec, plan: Plan, spec: WorkerSpec, out: str, console: Console, work: Work) -> Summary:
    """One run whose rows come from elsewhere than an engine: recorded, stored and added to the store's job alike.

    Args:
        job: of the store.
        plan: what `work` will do.
        spec: the metrics that are computed here.
        out: folder or URI of the store.
        console: where progress goes.
        work: is given `spec` with the run's id, and the listener that takes what comes of each unit.
    """
    store = Store(out)
    summary = _Run(job, store, plan, console).carry_out(spec, "serial", work=work)
    additions.write(store, job, additions.of_store(store).with_targets(plan.grid))
    return summary


class _Run:
    """One execution: its id, its file, and what becomes of outcomes."""

    def __init__(self, job: JobSpec, store: Store, plan: Plan, console: Console, shard: Shard | None = None) -> None:
        self._job = job
        self._store = store
        self._plan = plan
        self._console = console
        self._run_id = provenance.new_run_id()
        self._facts: dict[str, Any] = {}
        self._shard = shard
        self._warnings: list[str] = []
        self._patience = Patience(store.root, self.warn, self.tell)
        self._writer = store.writer(self._run_id, COMMIT_EVERY_S)
        self._progress = RunProgress(plan, console)
        self._num_stored = self._num_failed = 0
        self._fit = Fit(plan.units)
        self._recorded = 0.0

    def lease(self, force: bool) -> AbstractContextManager[None]:
        """Says meanwhile that this run works on a shard; see `Lease.held`."""

        def lost(other: Mapping[str, Any]) -> None:
            who = f"run {other['run_id']} (host {other['host']}, pid {other['pid']})"
            self.warn(f"{who} works on the same cells by --force: rows stay right, but work is done twice")

        return Lease(self._store.root, self._run_id, self._shard or Shard()).held(force, lost)

    def carry_out(
        self, spec: WorkerSpec, engine: Engine, address: str | None = None, work: Work | None = None
    ) -> Summary:
        started = time.monotonic()
        if not self._plan.units:
            return self._summary(None, started, interrupted=False)
        batch = None if self._job.window_batch == "auto" else self._job.window_batch
        spec = replace(spec, run_id=self._run_id, unavailable=self._unavailable(spec.metrics), window_batch=batch)
        for text in self._plan.grid.warnings:
            self.warn(text)
        origin = {"shard": self._shard and str(self._shard), "reuse": spec.reuse}
        self._facts = {"job": self._job.model_dump(mode="json"), **provenance.collect(self._plan.grid), **origin}
        self._record("running")
        status = "died"
        try:
            with self._progress:
                try:
                    if work:
                        work(spec, self)
                    else:
                        self._run(spec, engine, address or os.environ.get("RAY_ADDRESS"))
                    ended = "done"
                except KeyboardInterrupt:
                    ended = "interrupted"
                finally:
                    self._store_all()
                status = ended
        finally:
            self._patience.attempt(partial(self._record, status))
        if status == "done":
            self._patience.attempt(self._store.compact)
        return self._summary(self._run_id, started, interrupted=status == "interrupted")

    def _run(self, spec: WorkerSpec, engine: Engine, address: str | None) -> None:
        """Carry out the plan by the engine that was asked for, or that pays."""
        units, has_ray = self._plan.units, importlib.util.find_spec("ray") is not None
        if engine == "ray" and not has_ray:
            raise UserError("the ray engine needs the package ray: pip install ray, or take --engine serial")
        one = Node(cores=available_cores(), gpus=torch.cuda.device_count(), memory=provenance.available_memory())
        pool = share(self._job.resources, [one], len(units), self._model_bytes(units))
        if engine == "serial" or not has_ray or (engine == "auto" and pool.workers == 1 and not address):
            threads = self._job.resources.threads
            spec = replace(spec, threads=available_cores() if threads == "auto" else threads)
            self._facts["engine"] = {"name": "serial", "workers": 1, "threads": spec.threads}
            serial.run(units, spec, self)
            return
        from freqbench.engine import ray_cluster, ray_engine

        with ray_cluster.existing(address) if address else ray_cluster.own(pool.workers * pool.threads + 1):
            if address:
                nodes = ray_cluster.nodes()
                saved_volumes.require_shared(spec.volumes, len(nodes))
                pool = share(self._job.resources, nodes, len(units), self._model_bytes(units), grows=True)
                following = partial(room, self._job.resources, pool, self._model_bytes(units))
            self._facts["engine"] = {
                "name": "ray",
                "workers": pool.workers,
                "threads": pool.threads,
                "gpus_per_worker": pool.gpus,
            }
            spec = replace(spec, threads=pool.threads, gpu_share=pool.memory_share)
            ray_engine.run(units, spec, pool, self, self._job.case_timeout, following if address else None)

    def _model_bytes(self, units: Sequence[Unit]) -> int:
        """Of the largest step of a model, times the windows that are attacked at once."""
        models = {model.model_id: model for unit in units for model in (unit.cell.source, *unit.targets)}
        batch = 1 if self._job.window_batch == "auto" else self._job.window_batch
        return batch * max(map(step_bytes, models.values()))

    def begin(self, unit: Unit) -> None:
        """See Listener."""
        self._progress.begin(unit)

    def take(self, outcome: Outcome) -> None:
        """Hand an outcome's rows to the writer; they are done once it has committed them."""
        if outcome.failed:
            self._num_failed += len(outcome.records)
        for complaint in filter(None, map(self._fit.complaint, outcome.records)):
            self.warn(complaint)
        self._progress.finish(outcome)
        self._commit(partial(self._writer.add, outcome.records, outcome.flat_class_records()))

    def tick(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """Commit what has waited long enough, and be heard of now and then."""
        self._facts["workers"] = workers
        self._commit(self._writer.flush_due)
        if time.monotonic() - self._recorded > HEARTBEAT_S:
            self._patience.attempt(partial(self._record, "running"))

    def tell(self, text: str) -> None:
        """A line for whoever looks on."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that stays in the run's file."""
        self._warnings.append(text)
        self._console.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _commit(self, write: Callable[[], int]) -> None:
        """Have the writer commit what it sees fit; where the store refuses, the rows wait."""
        count = self._patience.attempt(write) or 0
        self._progress.store(count)
        if count:
            self._num_stored += count
            self._patience.attempt(partial(self._record, "running"))

    def _store_all(self) -> None:
        """Commit what waits, however long the store takes to answer again."""
        self._commit(self._writer.flush)
        while self._writer.num_waiting:
            time.sleep(COMMIT_EVERY_S)
            self._commit(self._writer.flush)

    def _unavailable(self, metrics: Sequence[str]) -> Mapping[str, str]:
        """Metrics that cannot be computed here, said once."""
        if "lpips" not in metrics:
            return {}
        try:
            prepare_lpips()
        except LpipsUnavailable as error:
            self.warn(f"{error}; the columns of LPIPS stay empty")
            return {"lpips": str(error)}
        return {}

    def _record(self, status: str) -> None:
        """Write the run's own file."""
        self._recorded = time.monotonic()
        progress = {"status": status, "records": self._num_stored, "failed": self._num_failed}
        self._store.write_run(
            self._run_id, {**self._facts, **progress, "warnings": self._warnings, "heartbeat": provenance.now()}
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
