"""Runs a plan: carries out the remaining units of a grid, stores rows as they come, and keeps a record of the run."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console

from freqbench.core.errors import MisfitError, UserError
from freqbench.core.files import storage
from freqbench.data import cache
from freqbench.engine import engines, provenance, saved_volumes, scoring
from freqbench.engine.additions import Additions
from freqbench.engine.engines import Engine as Engine
from freqbench.engine.learning import LEARNED
from freqbench.engine.progress import Listener, RunProgress
from freqbench.engine.retry import Patience
from freqbench.engine.rows import Outcome
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit
from freqbench.job.grid import Grid
from freqbench.job.plan import Plan, first_cases, make_plan, volumes_root
from freqbench.results import Lease, Shard, Store, index_keys
from freqbench.results.glimpses import Glimpses
from freqbench.results.schema import CAUTIONS, OF_GRADIENTS
from freqbench.results.volumes import VOLUMES

COMPACT_ABOVE = 64
JUDGED = ("dataset", "target_model_id", "case_id", "dsc_foreground_clean")
COMMIT_EVERY_S = 5.0
HEARTBEAT_S = 20.0
MISFIT_CAUSES = (
    "usual causes: other args than it was trained with, another intensity window or spacing, another order of classes "
    "or axes, a checkpoint of an older MONAI without its migration"
)
Work = Callable[[WorkerSpec, Listener], None]
"""Function that carries out a plan: it gets the workers' spec and tells a listener the outcome of each unit."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Result of a run, in records."""

    run_id: str | None  # None if there was nothing to do
    num_done: int  # before the run
    num_new: int
    num_failed: int  # of the new ones
    seconds: float
    interrupted: bool


def execute(
    grid: Grid,
    out: str,
    console: Console,
    engine: Engine = "auto",
    address: str | None = None,
    shard: Shard | None = None,
    force: bool = False,
) -> Summary:
    """Runs the remaining units of a grid into the result store at `out`, a folder or URI.

    Args:
        engine: `ray`, `serial`, or `auto`: Ray if it is installed and more than one worker pays off.
        address: address of a Ray cluster; None: the one in RAY_ADDRESS, else a Ray started by this process.
        shard: part of the grid for this run; None: all of it. The store's job is that of the whole grid.
        force: run even if another run works on the same cells.

    Raises:
        MisfitError: the first clean Dice of a checkpoint is below its `min_dice`; the rows so far are stored.
        UserError: the store cannot be read or has refused rows for too long, another run works on the same cells, the
            cluster cannot be reached, no worker starts, or FREQBENCH_CACHE_GB is no number.
    """
    cache.require_usable()
    store, root = Store(out), volumes_root(grid, out)
    is_new = not store.run_ids()
    store.compact(above=COMPACT_ABOVE)
    covered, index, part = store.covered(), grid.index(), grid.shard(shard or Shard())
    plan = make_plan(part, covered, saved_volumes.saved(root) if root else None)
    content = Additions.of(store).onto({"spec": grid.job.model_dump(mode="json"), "index": index})
    wanted = index_keys(content["index"])
    num_others, complaint = len(covered.keys() - wanted), store.complaint(wanted)
    del covered, wanted
    store.write_job(content)
    run = _Run(store, plan, console, shard)
    for note in grid.notes:
        run.tell(f"note: {note}")
    if complaint:
        console.print(complaint, markup=False, highlight=False, soft_wrap=True)
    if num_others:
        run.warn(
            f"{out}: {num_others} of its records belong to another job or to an earlier version of this one: they stay "
            "and are not shown; run.json holds this job from now on, and the runs' files hold the earlier ones"
        )

    def lost(other: Mapping[str, Any]) -> None:
        who = f"run {other['run_id']} (host {other['host']}, pid {other['pid']})"
        run.warn(f"{who} works on the same cells by --force: rows stay right, but work is done twice")

    lease = Lease(out, run.run_id, shard or Shard())
    with lease.held(force, lost) if plan.units else nullcontext():
        for text in _faults(plan):
            run.warn(text)
        work = partial(engines.carry_out, plan, engine, address, is_new=is_new)
        summary = run.carry_out(work, volumes=root)
    if summary.run_id:
        store.write_job(content)  # again, because the list of runs has grown
    return summary


def rescore(grid: Grid, out: str, console: Console, added: Additions | None = None) -> Summary:
    """Scores the saved adversarial volumes of a store on the grid's targets, without an attack.

    `added` replaces the additions in the store's job. Raises UserError as `execute`, and if the store has no volume of
    this grid.
    """
    cache.require_usable()
    store, root = Store(out), storage.join(out, VOLUMES)
    plan = make_plan(grid, store.covered())
    is_saved = saved_volumes.saved(root)
    saved = tuple(unit for unit in plan.units if is_saved(unit.cell, unit.ref))
    if plan.units and not saved:
        raise UserError(f"{root}: expected saved volumes of this job, found none: run it with save_adversarial: nifti")
    if len(saved) < len(plan.units):
        console.print(f"{len(plan.units) - len(saved)} units have no saved volume and are left out", highlight=False)
    plan = replace(plan, units=saved)
    work = partial(engines.carry_out, plan, "auto", None)
    summary = _Run(store, plan, console).carry_out(work, volumes=root, reuse=True)
    (added or Additions.of(store)).with_targets(grid).write(store, grid.job)
    return summary


def carry_out(plan: Plan, out: str, console: Console, work: Work) -> Summary:
    """Runs a plan whose rows come from `work`, not from an engine; records and stores it all the same."""
    store = Store(out)
    summary = _Run(store, plan, console).carry_out(work)
    Additions.of(store).with_targets(plan.grid).write(store, plan.grid.job)
    return summary


def _faults(plan: Plan) -> Iterator[str]:
    """Yields one line per problem with the intensities of the first remaining cases."""
    for dataset, ref, space in first_cases(plan.units):
        yield from dataset.faults(ref, space)


class _Run:
    def __init__(self, store: Store, plan: Plan, console: Console, shard: Shard | None = None) -> None:
        self.run_id = provenance.new_run_id()
        self._job = plan.grid.job
        self._store = store
        self._plan = plan
        self._console = console
        self._facts: dict[str, Any] = {"shard": shard and str(shard)}
        self._warnings: list[str] = []
        self._writer = store.writer(self.run_id, COMMIT_EVERY_S)
        self._patience = Patience(store.root, self.warn, self.tell, lambda: self._writer.num_waiting)
        self._glimpses, self._lacks_glimpses = Glimpses(store.root), False
        self._progress = RunProgress(plan, console)
        self._num_stored = self._num_failed = 0
        self._empty: set[tuple[str, str]] = set()
        self._cautions = Counter[tuple[str, str, str]]()  # number of rows by attack, source and reason
        self._told: set[tuple[str, str, str]] = set()  # reasons that lie in a case, by its dataset and name
        self._recorded = 0.0
        # Models whose clean Dice on the first case of a dataset is to be judged; removed once it is.
        self._judged = {
            (unit.cell.dataset.name, target.model_id): target for unit in plan.units for target in unit.targets
        }

    def carry_out(self, work: Work, volumes: str | None = None, reuse: bool = False) -> Summary:
        """Lets `work` make the plan's rows, and stores them; `volumes` and `reuse` as in WorkerSpec."""
        started, status = time.monotonic(), "died"
        if self._plan.units:
            unavailable = scoring.unavailable(self._plan.metrics)
            for reason in unavailable.values():
                self.warn(f"{reason}; the columns of LPIPS stay empty")
            spec = WorkerSpec(
                run_id=self.run_id,
                metrics=self._plan.metrics,
                unavailable=unavailable,
                window_batch=None if self._job.window_batch == "auto" else self._job.window_batch,
                volumes=volumes,
                learned=storage.join(self._store.root, LEARNED),
                reuse=reuse,
                trust_code=self._job.trust_code,
            )
            for text in self._plan.grid.warnings:
                self.warn(text)
            job = {"job": self._job.model_dump(mode="json")}
            self._facts = {**job, **provenance.collect(self._plan.grid), **self._facts, "reuse": reuse}
            self._record("running")
            try:
                self._judge_stored()
                with self._progress.bar:
                    try:
                        work(spec, self)
                    finally:
                        self._warn_of_cautions()
                        self._store_all()
                status = "done"
            except KeyboardInterrupt:
                status = "interrupted"
            except MisfitError:
                status = "stopped"
                raise
            finally:
                self._patience.attempt(partial(self._record, status))
            if status == "done":
                self._patience.attempt(self._store.compact)
        return Summary(
            run_id=self.run_id if self._plan.units else None,
            num_done=self._plan.num_done,
            num_new=self._num_stored,
            num_failed=self._num_failed,
            seconds=time.monotonic() - started,
            interrupted=status == "interrupted",
        )

    def _judge_stored(self) -> None:
        """Judges models by the rows that an earlier run stored, so that the same command does not go on one by one."""
        if self._plan.num_done and any(target.min_dice for target in self._judged.values()):
            for record in self._store.records(JUDGED).to_pylist():
                self._check_fit(record)

    def use(self, engine: Mapping[str, Any]) -> None:
        """See Listener."""
        self._facts["engine"] = engine

    def wait(self, text: str) -> None:
        """See Listener."""
        self._progress.wait(text)

    def begin(self, unit: Unit) -> None:
        """See Listener."""
        self._progress.begin(unit)

    def advance(self, unit: Unit, passes: int) -> None:
        """See Listener."""
        self._progress.advance(unit, passes)

    def take(self, outcome: Outcome) -> None:
        """Hands an outcome's rows to the writer; they count as done once it has committed them."""
        self._num_failed += len(outcome.errors)
        for record in outcome.records:
            self._take_cautions(record)
            self._check_label(record)
        self._progress.finish(outcome)
        if outcome.glimpse:
            self._glimpses.add(outcome.glimpse)
        self._commit(partial(self._writer.add, outcome.records, outcome.flat_class_records()))
        for record in outcome.records:
            self._check_fit(record)

    def tick(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """Commits rows that have waited long enough, and renews the run's file now and then."""
        self._facts["workers"] = workers
        self._commit(self._writer.flush_due)
        if time.monotonic() - self._recorded > HEARTBEAT_S:
            self._patience.attempt(partial(self._record, "running"))

    def keep(self, save: Callable[[], object]) -> None:
        """See Listener."""
        self._patience.keep(save)

    def tell(self, text: str) -> None:
        """See Listener."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Shows a warning and keeps it in the run's file."""
        self._warnings.append(text)
        self._console.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _take_cautions(self, record: Mapping[str, Any]) -> None:
        """Warns once of each reason that lies in a case, and counts those that lie in gradients."""
        for reason in filter(None, (record["caution"] or "").split(CAUTIONS)):
            if OF_GRADIENTS in reason:
                self._cautions[record["attack"], record["source_model"], reason] += 1
            elif (case := (record["dataset"], record["case_id"], reason)) not in self._told:
                self._told.add(case)
                if not any(
                    text.endswith(reason) for text in self._warnings
                ):  # said of the file before the first attack
                    self.warn(f"{record['case_id']} of {record['dataset']}: {reason}")

    def _warn_of_cautions(self) -> None:
        """Warns in one line of rows that say little about their model, with their number and the most common reason."""
        if self._cautions:
            ((attack, model, caution), _) = self._cautions.most_common(1)[0]
            self.warn(
                f"{self._cautions.total()} records say little about their model, most of them of {attack} on {model}: "
                f"{caution}: check the model's gradients (freqbench audit {self._store.root} --run)"
            )

    def _check_label(self, record: Mapping[str, Any]) -> None:
        """Warns once of a case whose label has no foreground class on the attacked grid."""
        case, dice = (record["dataset"], record["case_id"]), record["dsc_foreground_clean"]
        if dice is not None and math.isnan(dice) and case not in self._empty:
            self._empty.add(case)
            is_label = record["reference"] == "label"
            what = "a label" if is_label else f"a clean prediction of {record['target_model']}"
            remedy = "the label and its place" if is_label else "the model and the intensities that it sees"
            self.warn(
                f"{record['case_id']} of {record['dataset']}: expected {what} with a class beside the background, got "
                f"none on the grid that is attacked: its foreground scores are undefined (NaN): check {remedy}, or "
                "leave the case out"
            )

    def _check_fit(self, record: Mapping[str, Any]) -> None:
        """Ends the run if the clean Dice of a model's first case shows that its checkpoint does not fit the dataset.

        Weights that the job trained fit by their making, and volumes that are only scored again cost little: there a
        low Dice is a warning.
        """
        key, dice = (record["dataset"], record["target_model_id"]), record["dsc_foreground_clean"]
        if dice is None or math.isnan(dice) or key not in self._judged:
            return  # without foreground, the next case is checked
        target = self._judged.pop(key)
        if dice < target.min_dice:
            line = (
                f"{target.name}: clean foreground Dice {dice:.2f} on {record['case_id']} of {record['dataset']}, "
                f"expected min_dice {target.min_dice:g} at least: this checkpoint does not fit this dataset or "
                f"preprocessing ({MISFIT_CAUSES})"
            )
            if target.training or self._facts.get("reuse"):
                self.warn(line)
                return
            self._warnings.append(line)
            raise MisfitError(
                f"{line}; rows so far are in {self._store.root}: mend it, or give {target.name} min_dice: 0 to go on"
            )

    def _commit(self, write: Callable[[], int]) -> None:
        """Lets the writer commit rows; if the store refuses them, they wait."""
        count = self._patience.attempt(write) or 0
        self._progress.store(count)
        if count:
            self._num_stored += count
            self._keep_glimpses()
            self._patience.attempt(partial(self._record, "running"))

    def _keep_glimpses(self) -> None:
        """Writes the glimpses of the rows so far; if the store refuses them, the run continues without."""
        try:
            self._glimpses.flush()
        except OSError as error:
            if not self._lacks_glimpses:
                self.warn(f"{self._store.root}: glimpses are not written: {error}")
            self._lacks_glimpses = True

    def _store_all(self) -> None:
        self._commit(self._writer.flush)
        if waiting := self._writer.num_waiting:
            self.tell(f"{self._store.root}: {waiting} records wait for room or an answer: Ctrl-C gives them up")
        while self._writer.num_waiting:
            time.sleep(COMMIT_EVERY_S)
            self._commit(self._writer.flush)

    def _record(self, status: str) -> None:
        self._recorded = time.monotonic()
        progress = {"status": status, "records": self._num_stored, "failed": self._num_failed}
        facts = {**self._facts, **progress, "warnings": self._warnings, "heartbeat": provenance.now()}
        self._store.write_run(self.run_id, facts)
