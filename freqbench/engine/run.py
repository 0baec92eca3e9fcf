"""Runs a plan: carries out the remaining units of a grid, stores rows as they come, and keeps a record of the run."""

import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from pydantic import Field
from rich.console import Console

from freqbench.core import names
from freqbench.core.code import steady
from freqbench.core.config import Strict, validate
from freqbench.core.errors import MisfitError, UserError
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.machine import TOOLCHAINS, releases
from freqbench.core.terminal import amount
from freqbench.data import cache
from freqbench.engine import engines, provenance, saved_volumes, scoring
from freqbench.engine.critic import FIT_COLUMNS, Critic
from freqbench.engine.engines import Engine as Engine
from freqbench.engine.learning import LEARNED
from freqbench.engine.progress import RunProgress
from freqbench.engine.retry import Patience
from freqbench.engine.rows import Outcome
from freqbench.engine.witness import PARTLY, PROOF
from freqbench.engine.worker import WorkerSpec
from freqbench.job import costs
from freqbench.job.grid import Grid
from freqbench.job.plan import Plan, make_plan, volumes_root
from freqbench.job.schema import JobSpec
from freqbench.results import KEY, Key, Lease, Shard, Store, index_keys
from freqbench.results.glimpses import GLIMPSES, Glimpses
from freqbench.results.releases import Origin, mixture
from freqbench.results.schema import CLEAN_NUMBER, RELEASES
from freqbench.results.volumes import VOLUMES

COMPACT_ABOVE = 64
COMMIT_EVERY_S = 5.0
HEARTBEAT_S = 20.0
EMPTY: Mapping[str, Any] = {"index": {"cells": [], "cases": {}}}  # of a store without a job


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Result of a run, in records."""

    run_id: str | None  # None if there was nothing to do
    num_done: int  # before the run
    num_new: int
    num_failed: int  # of the new ones
    seconds: float
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run of the remaining units of a grid."""

    engine: Engine = "auto"  # `ray`, `serial`, or `auto`: Ray if it is installed and more than one worker pays off
    address: str | None = None  # of a Ray cluster; None: the one in RAY_ADDRESS, else a Ray started by this process
    shard: Shard | None = None  # part of the grid for this run; None: all of it, which the store's job is in any case
    force: bool = False  # run even if another run works on the same cells
    fresh: bool = False  # run all units, and let workers read nothing that earlier runs kept
    is_judged: bool = True  # networks are judged by clean predictions before the first attack; else they were before


USUAL = RunOptions()


@steady()
def execute(grid: Grid, out: str, console: Console, options: RunOptions = USUAL) -> Summary:
    """Runs the remaining units of a grid. Raises MisfitError, before any attack, if clean predictions show that a
    network does not fit the data; UserError if the store cannot be read or refuses rows, another run works on the same
    cells, no worker starts, or FREQBENCH_CACHE_GB is no number.

    Args:
        grid: the whole grid of the job, which becomes the job of the store.
        out: the result store, a folder or URI.
        console: where progress and warnings are shown.
        options: engine, part of the grid, and what may be read of earlier runs.
    """
    fresh = options.fresh
    cache.require_usable()
    store = Store(out)
    root = volumes_root(grid, out)
    store.compact(above=COMPACT_ABOVE)
    covered = store.covered()
    shard = options.shard or Shard()
    part = grid.shard(shard)
    done = {key: metrics.difference(grid.metrics) for key, metrics in covered.items()} if fresh else covered
    plan = make_plan(part, done, saved_volumes.find_saved(root) if root else None)
    added = Additions.read(store)
    proven = added.proven_in(grid)
    content = added.extend(_content(grid, proven))
    wanted = index_keys(content["index"])
    num_others = len(covered.keys() - wanted)
    del covered, done, wanted
    store.write_job(content)
    run = Recorder(store, plan, console, options, proven=proven)
    for note in (*grid.notes, *plan.notes):
        run.tell(f"note: {note}")
    if num_others:
        run.warn(
            f"{out}: {num_others} of its records belong to another job or to an earlier version of this one: they stay "
            "and are not shown; run.json holds this job from now on, and the runs' files hold the earlier ones"
        )

    def warn_of_loss(other: Mapping[str, Any]) -> None:
        who = f"run {other['run_id']} (host {other['host']}, pid {other['pid']})"
        run.warn(f"{who} works on the same cells by --force: rows stay right, but work is done twice")

    if not plan.units:
        return run.summary
    with Lease(out, run.run_id, shard).held(options.force, warn_of_loss):
        for line in run.critic.of_files():
            run.warn(line)
        if fresh:
            _forget(store.root, {cell.cell_id for cell in part.cells})
        with run.record_rows(root) as spec:
            spec = replace(spec, fresh=fresh)
            engines.run_plan(run.plan_clean(), options.engine, options.address, spec, run, run.seconds)
    # Again, because the list of runs has grown, and with the networks that are proven by now.
    store.write_job(Additions.read(store).add_proven(grid, run.clean).extend(_content(grid, run.clean)))
    run.require_kept()
    return run.summary


def _forget(root: str, cell_ids: Collection[str]) -> None:
    """Removes the learned tensors and glimpses of cells from a store, each file named after its cell."""
    for kind in (LEARNED, GLIMPSES):
        folder = storage.join(root, kind)
        names.require_inside(root, folder)
        for name in storage.list_files(folder, ""):
            if name[:16] in cell_ids:
                storage.remove(storage.join(folder, name))


def _content(grid: Grid, clean: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Returns a job for the store, with the words on clean numbers that are known by now."""
    return {"spec": grid.job.model_dump(mode="json"), "index": replace(grid, clean={**grid.clean, **clean}).index()}


@steady()
def rescore(grid: Grid, out: str, console: Console, added: "Additions | None" = None) -> Summary:
    """Scores the saved adversarial volumes of the store `out` on the grid's targets, without an attack; progress is
    shown on `console`. `added` replaces the additions in the store's job. Raises UserError as `execute`, and if the
    store has no volume of this grid."""
    cache.require_usable()
    store = Store(out)
    root = storage.join(out, VOLUMES)
    plan = make_plan(grid, store.covered())
    is_saved = saved_volumes.find_saved(root)
    saved = tuple(unit for unit in plan.units if is_saved(unit.cell, unit.ref))
    if plan.units and not saved:
        raise UserError(f"{root}: expected saved volumes of this job, found none: run it with save_adversarial: nifti")
    whole = plan
    plan = replace(plan, units=saved)
    if lacking := whole.num_todo - plan.num_todo:
        console.print(f"{amount(lacking, 'record')} of volumes that were not saved: left out", highlight=False)
    run = Recorder(store, plan, console, attacks=False)
    if saved:
        with run.record_rows(root, reuse=True) as spec:
            engines.run_plan(plan, "auto", None, spec, run, run.seconds)
    (added or Additions.read(store)).add_targets(grid).write(store, grid.job)
    run.require_kept()
    return run.summary


class Recorder:
    """Listener that stores a run's rows as they come, and keeps the run's file."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        console: Console,
        options: RunOptions = USUAL,
        attacks: bool = True,
        proven: Mapping[tuple[str, str], str] = MappingProxyType({}),
    ) -> None:
        self.run_id = provenance.new_run_id()
        self.critic = Critic(plan, options.is_judged, proven)
        self._attacks = attacks
        self._store = store
        self._plan = plan
        self._console = console
        self.clean = {**plan.grid.clean, **proven}  # words on clean numbers, by dataset and model
        self._facts: dict[str, Any] = {"shard": options.shard and str(options.shard), "clean": [], "compiled": {}}
        self._warnings: list[str] = []
        self._writer = store.writer(self.run_id, COMMIT_EVERY_S)
        self._patience = patience = Patience(store.root, self.warn, self.tell, lambda: self._writer.num_waiting)
        self._glimpses = Glimpses(store.root)
        self._lacks_glimpses = False
        estimate = costs.estimate_costs(plan.units, plan.metrics, store if plan.num_done else None)
        self._spent = costs.Spent()
        if not attacks:  # volumes are scored that exist
            estimate = replace(estimate, attack=dict.fromkeys(estimate.attack, 0.0))
        self.seconds = estimate.total  # of one worker
        self._progress = progress = RunProgress(plan, console, estimate)
        self.wait = progress.wait
        self.begin = progress.begin
        self.advance = progress.advance
        self.keep = patience.keep
        self._status = "died"
        self._started = time.monotonic()
        self._recorded = 0.0
        self._found = store.names() if plan.num_done else frozenset[str]()  # files at the beginning
        self._lost = 0  # records that have been lost since

    @contextmanager
    def record_rows(self, volumes: str | None = None, reuse: bool = False) -> Iterator[WorkerSpec]:
        """Context in which an engine makes the plan's rows, all stored at its end; yields the spec of its workers,
        which save adversarial volumes in `volumes`, a folder or URI, or with `reuse` read them there instead of
        attacking."""
        writer = self._writer
        plan = self._plan
        grid = plan.grid
        job = grid.job
        store = self._store
        attempt = self._patience.attempt
        unavailable = scoring.unavailable(plan.metrics)
        for reason in unavailable.values():
            self.warn(f"{reason}; the columns of LPIPS stay empty")
        for text in grid.warnings:
            self.warn(text)
        if plan.num_done and (line := self._mixture()):
            self.warn(f"{store.root}: {line}")
        spec = WorkerSpec(
            run_id=self.run_id,
            metrics=plan.metrics,
            unavailable=unavailable,
            window_batch=None if job.window_batch == "auto" else job.window_batch,
            volumes=volumes,
            learned=storage.join(store.root, LEARNED),
            reuse=reuse,
            trust_code=job.trust_code,
        )
        facts = {"job": job.model_dump(mode="json"), **provenance.collect(grid)}
        self._facts = {**facts, **self._facts, "reuse": reuse}
        self._record("running")
        try:
            if plan.num_done and self.critic.unjudged:
                for record in store.records(FIT_COLUMNS).to_pylist():
                    self._require_fit(record)
            with self._progress.bar:
                try:
                    yield spec
                finally:
                    if line := self.critic.of_gradients():
                        self.warn(f"{line} (freqbench audit {store.root} --run)")
                    self._commit(writer.flush)
                    if waiting := writer.num_waiting:
                        waits = f"{waiting} records wait for room or an answer: Ctrl-C gives them up"
                        self.tell(f"{store.root}: {waits}")
                    while writer.num_waiting:
                        time.sleep(COMMIT_EVERY_S)
                        self._commit(writer.flush)
            self._status = "done"
        except KeyboardInterrupt:
            self._status = "interrupted"
        except MisfitError:
            self._status = "stopped"
            raise
        finally:
            attempt(partial(self._record, self._status))
        attempt(self._look)
        if self._status == "done":
            attempt(store.compact)
            attempt(store.write_classes)
            self._spent.remember()

    def plan_clean(self) -> Plan:
        """Returns the plan with the clean predictions that are to be made and judged before its units."""
        clean = self.critic.clean_units()
        self._progress.num_clean = sum(len(unit.targets) for unit in clean)
        return replace(self._plan, clean=clean)

    def require_kept(self) -> None:
        """Raises UserError if records that were stored are missing at the end of the run."""
        if self._lost:
            raise UserError(self._loss)

    @property
    def _loss(self) -> str:
        return (
            f"{self._store.root}: expected the {self._plan.num_done + self._progress.num_new} records that were stored "
            f"by now, got {self._lost} fewer: their files were removed or replaced while this ran: the same command "
            "computes them anew"
        )

    @property
    def summary(self) -> Summary:
        """Result of the run so far."""
        return Summary(
            run_id=self.run_id if self._plan.units else None,
            num_done=self._plan.num_done,
            num_new=self._progress.num_new,
            num_failed=self._progress.num_failed,
            seconds=time.monotonic() - self._started,
            interrupted=self._status == "interrupted",
        )

    def use(self, engine: Mapping[str, Any]) -> None:
        """Notes the `engine`; see Listener."""
        self._facts["engine"] = engine
        self._progress.use(engine)

    def take(self, outcome: Outcome) -> None:
        """Hands an outcome's rows to the writer; MisfitError once a network's clean predictions show a misfit."""
        records = outcome.records
        for record in records:
            record[CLEAN_NUMBER.name] = self.clean.get((record["dataset"], record["target_model_id"]))
            self._spent.add(record, outcome.slowdown)
            for line in self.critic.of_record(record):
                self.warn(line)
        self._progress.finish(outcome)
        self._facts["compiled"] |= outcome.forms
        if outcome.glimpse:
            self._glimpses.add(outcome.glimpse)
        self._commit(partial(self._writer.add, records, outcome.class_records))
        for facts in (*outcome.clean, *records):
            self._require_fit(facts)

    def tick(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """Commits rows that have waited long enough, and renews the run's file, with the facts of `workers`, now and
        then."""
        self._facts["workers"] = workers
        self._commit(self._writer.flush_due)
        if time.monotonic() - self._recorded > HEARTBEAT_S:
            self._patience.attempt(partial(self._record, "running"))
            if storage.is_local(self._store.root):  # elsewhere at the end: object storage charges for listings
                self._patience.attempt(self._look)

    def tell(self, text: str) -> None:
        """Shows the user a line of `text`."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Shows the `text` of a warning, and keeps it in the run's file."""
        self._warnings.append(text)
        self._console.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _require_fit(self, facts: Mapping[str, Any]) -> None:
        """Ends the run if clean predictions show a misfit; warns of trained weights and volumes that exist already."""
        if not (judged := self.critic.judge(facts)):
            return
        self._facts["clean"].append(judged.facts)
        if judged.proof:
            self.clean[judged.facts["dataset"], judged.target.model_id] = judged.proof.partition(": ")[2]
        target = judged.target
        misfit = judged.misfit
        if not misfit:
            (self.warn if judged.has_gap else self.tell)(judged.line)
        elif target.training or not self._attacks:
            self.warn(misfit)
        else:
            self._warnings.append(misfit)
            way_on = f"if this is its own figure, give {target.name} expected_dice: VALUE"
            if judged.is_of_own:
                job = f"--job JOB --checkpoint {shlex.quote(target.name)}"
                way_on = f"freqbench doctor {job} seeks the setting that is another, or leave out predictions"
            raise MisfitError(f"{misfit}; no attack has begun: state what its training used; {way_on}")

    def _commit(self, write: Callable[[], int]) -> None:
        """Lets the writer commit rows; if the store refuses them, they wait."""
        count = self._patience.attempt(write) or 0
        self._progress.store(count)
        if not count:
            return
        try:
            self._glimpses.flush()
        except OSError as error:  # the run continues without them
            if not self._lacks_glimpses:
                self.warn(f"{self._store.root}: glimpses are not written: {error}")
            self._lacks_glimpses = True
        self._patience.attempt(partial(self._record, "running"))

    def _mixture(self) -> str | None:
        """Returns a line if the plan's rows will stand beside rows of the job that other releases made."""
        store = self._store
        todo = self._todo
        others = index_keys((store.job() if store.has_job else EMPTY)["index"]) - todo
        counts: Counter[Origin] = Counter()
        for *key, made_by, run_id in store.rows((*KEY, RELEASES.name, "run_id")):
            if tuple(key) in others:
                counts[made_by, run_id] += 1
        counts[releases(frozenset({*TOOLCHAINS, *self._plan.metrics})), self.run_id] += len(todo)
        return mixture(counts, [*store.runs(), {"run_id": self.run_id, "code": provenance.git_state()}])

    @property
    def _todo(self) -> set[Key]:
        keys: set[Key] = set()
        for unit in self._plan.units:
            keys |= {unit.cell.key(unit.ref, target) for target in unit.targets}
        return keys

    def _look(self) -> None:
        """Counts the records that are no longer in the store, whose files no merge explains, and warns of more of them.
        Rows of earlier runs, whose ids are smaller, stand for those of this one only where these failed."""
        if self._found | self._writer.names <= self._store.names():
            return
        todo = self._todo
        others = index_keys(self._plan.grid.index()) - todo
        num_stored = 0
        num_earlier = 0
        for cell_id, case_key, model_id, run_id in self._store.rows((*KEY, "run_id")):
            key = cell_id, case_key, model_id
            if key in others or (key in todo and run_id >= self.run_id):
                num_stored += 1
            elif key in todo:
                num_earlier += 1
        kept = min(num_earlier, self._progress.num_failed)
        lost = self._plan.num_done + self._progress.num_new - num_stored - kept
        if lost > self._lost:
            self._lost = lost
            self.warn(self._loss)

    def _record(self, status: str) -> None:
        self._recorded = time.monotonic()
        progress = {"status": status, "records": self._progress.num_new, "failed": self._progress.num_failed}
        facts = {**self._facts, **progress, "warnings": self._warnings, "heartbeat": provenance.now()}
        self._store.write_run(self.run_id, facts)


# Additions of `score` to a store


class ImportedCell(Strict):
    """A cell whose volumes were imported: its entry in the index of a store's job, and the facts to remake it from."""

    cell_id: str
    dataset: str
    targets: list[str]
    cases: list[str]
    source: str
    label: str
    content: str


def _proof_key(grid: Grid, pair: tuple[str, str]) -> tuple[str, str, str]:
    """Returns the identities that a proof of a grid's network on a dataset holds for."""
    dataset = next(cell.dataset for cell in grid.cells if cell.dataset.name == pair[0])
    return pair[1], digest(dataset.whole_recipe()), grid.witnesses[pair].content


class Proof(Strict):
    """A network's clean predictions of a dataset that were seen to be its own, those of some files."""

    model_id: str
    recipe: str
    content: str
    words: str


class Additions(Strict):
    """Additions to a store beyond its job's grid, stored in `run.json` so that every later report has them."""

    scored: dict[str, list[str]] = Field(default_factory=dict)  # ids of further targets, by cell id
    named: dict[str, str] = Field(default_factory=dict)  # names of further targets, by id
    imported: list[ImportedCell] = Field(default_factory=list)  # by freqbench.exchange.adversarial_volumes
    proven: list[Proof] = Field(default_factory=list)

    @classmethod
    def read(cls, store: Store) -> "Additions":
        """Reads the additions of a store; empty if it has no job yet."""
        content = store.job() if store.has_job else {}
        parts = {name: content[name] for name in cls.model_fields if name in content}
        return validate(parts, cls, f"{store.root}/run.json")

    def add_targets(self, grid: Grid) -> "Additions":
        """Returns a copy with the targets of a grid's cells added."""
        scored = dict(self.scored)
        named = dict(self.named)
        for cell in grid.cells:
            targets = {target.model_id: target.name for target in cell.targets}
            scored[cell.cell_id] = list(dict.fromkeys([*scored.get(cell.cell_id, []), *targets]))
            named |= targets
        return self.model_copy(update={"scored": scored, "named": named})

    def add_imported(self, cell: ImportedCell) -> "Additions":
        """Returns a copy with one more imported cell."""
        others = [other for other in self.imported if other.cell_id != cell.cell_id]
        return self.model_copy(update={"imported": [*others, cell]})

    def proven_in(self, grid: Grid) -> dict[tuple[str, str], str]:
        """Returns the words on the networks of a grid that an earlier run has proven, by dataset and model."""
        words = {(proof.model_id, proof.recipe, proof.content): proof.words for proof in self.proven}
        found = {pair: words.get(_proof_key(grid, pair)) for pair in grid.witnesses}
        return {pair: text for pair, text in found.items() if text}

    def add_proven(self, grid: Grid, clean: Mapping[tuple[str, str], str]) -> "Additions":
        """Returns a copy with the networks of a grid whose words in `clean` tell of a proof."""
        proofs: list[Proof] = []
        for pair in grid.witnesses:
            words = clean.get(pair, "")
            if words.startswith((PROOF, PARTLY)):
                model_id, recipe, content = _proof_key(grid, pair)
                proofs.append(Proof(model_id=model_id, recipe=recipe, content=content, words=words))
        others = [each for each in self.proven if each not in proofs]
        return self.model_copy(update={"proven": [*others, *proofs]})

    def extend(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a job's content with the additions, also in its index, which reports read."""
        index = content["index"]
        imported = {cell.cell_id for cell in self.imported}
        grid_cells = [cell for cell in index["cells"] if cell["cell_id"] not in imported]
        imported_cells = [cell.model_dump(exclude={"source", "label", "content"}) for cell in self.imported]
        cells = []
        for cell in (*grid_cells, *imported_cells):
            targets = dict.fromkeys([*cell["targets"], *self.scored.get(cell["cell_id"], [])])
            cells.append({**cell, "targets": [*targets]})
        names = index.get("names", {}).items()
        named = {dataset: {**of, "models": self.named | of["models"]} for dataset, of in names}
        added = self.model_dump(exclude={key for key in ("imported", "proven") if not getattr(self, key)})
        return {**content, "index": {**index, "cells": cells, "names": named}, **added}

    def write(self, store: Store, job: JobSpec) -> None:
        """Writes the additions into a store's job; if there is none yet, `job` becomes it, with an empty index."""
        store.write_job(self.extend(store.job() if store.has_job else {"spec": job.model_dump(mode="json"), **EMPTY}))
