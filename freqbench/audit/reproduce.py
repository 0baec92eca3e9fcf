"""Recomputes records of a store with a worker's code, compares, and prints differences and their possible causes."""

import json
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Column, Table

from freqbench.audit.comparison import Cause, Row, RowComparison, causes, changed_inputs, compare
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.plugins import is_trusted
from freqbench.core.types import CaseRef
from freqbench.engine import saved_volumes, scoring
from freqbench.engine.rows import add_surfaces
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.exchange import adversarial_volumes
from freqbench.job.cells import Cell, Unit
from freqbench.job.grid import Grid, expand, further_targets
from freqbench.job.schema import JobSpec, stored_job
from freqbench.metrics import METRICS
from freqbench.metrics.added import resolved
from freqbench.results import Key, Store
from freqbench.results.store import LEAST_DIGITS, find_row, row_id, sample_rows
from freqbench.results.volumes import ADVERSARIAL, FACTS, VOLUMES

Verdict = Literal["equal", "close", "different", "not recomputed"]
MOST_DIFFERENCES = 30
WORDS: Mapping[Verdict, str] = {
    **{"equal": "equal to the bit", "close": "equal within the tolerances, not to the bit"},
    **{"different": "DIFFERENT", "not recomputed": "not recomputed"},
}
NONE_DIFFERS = "no known difference in device, versions, code, threads, window batch, processor, data, checkpoint"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Result of recomputing a record; `close`: within the tolerances, and a known cause excuses the difference."""

    row_id: str
    label: str  # description for people
    verdict: Verdict
    comparison: RowComparison | None = None  # None if there was nothing to compare
    causes: tuple[Cause, ...] = ()
    reason: str = ""  # why it was not recomputed, or what has changed


class Reproducer:
    """Recomputes records of one store, which is only read. A `job` in its job's place says where data are here."""

    def __init__(self, store: Store, job: JobSpec | None) -> None:
        self._store = store
        self._job = job
        self._grids: dict[str, Grid] = {}
        self._worker: Worker | None = None

    def each(self, keys: Sequence[Key]) -> Iterator[Reproduction]:
        """Yields one result per key; records that share a worker follow each other."""
        # Names are those of the job that is expanded: the run's, or the one that was given.
        pairs = self._store.found(keys, as_written=self._job is None)
        run_ids = {row["run_id"] for row, _ in pairs.values()}.intersection(self._store.run_ids())
        runs = {run_id: self._store.run(run_id) for run_id in run_ids}
        order = ("threads", "window_batch", "source_model", "dataset", "case_id", "attack")
        for row, classes in sorted(pairs.values(), key=lambda pair: [str(pair[0][name]) for name in order]):
            yield self._reproduce(row, classes, runs.get(row["run_id"], {}))  # the file of a run may be gone

    def _reproduce(self, row: Row, classes: Sequence[Row], run: Mapping[str, Any]) -> Reproduction:
        model = f"{row['source_model']}, scored on {row['target_model']}"
        label = f"{row['attack']} on {model}: case {row['case_id']} of {row['dataset']}"
        key = row["cell_id"], row["case_key"], row["target_model_id"]
        made = Reproduction(row_id=row_id(*key), label=label, verdict="not recomputed")
        if reason := _lost_reason(row, run):
            return replace(made, reason=reason)
        grid = self._grid(row, run)
        if (unit := _unit(grid, key)) is None:
            why = changed_inputs(run, row, grid) or ["the attack's revision or parameters, seed or precision differ"]
            return replace(made, verdict="different", reason="; ".join(why))
        computed, found_classes = self._compute(unit, row, run)
        comparison = compare(row, classes, computed, found_classes)
        differing = tuple(causes(run, row, computed))
        reason = f"recomputing failed: {computed['error']}" if computed["status"] == "failed" else ""
        verdict: Verdict = "equal"
        if comparison.differences:
            is_excused = any(cause.excuses for cause in differing)
            is_close = is_excused and all(each.is_tolerated for each in comparison.differences)
            verdict = "close" if is_close else "different"
        return replace(made, verdict=verdict, comparison=comparison, causes=differing, reason=reason)

    def _compute(self, unit: Unit, row: Row, run: Mapping[str, Any]) -> tuple[Row, Sequence[Row]]:
        """Computes a record and its classes as a worker makes them under the row's circumstances."""
        listed = filter(None, (row["metrics"] or "").split(","))
        metrics = tuple(name for name in listed if name in METRICS or resolved(name) == name)
        then = json.loads(row["null_reasons"] or "{}").get(METRICS["lpips"].columns[0])  # why it was not computed
        spec = WorkerSpec(
            run_id=row["run_id"],
            metrics=metrics,
            unavailable={"lpips": then} if then and "lpips" in metrics else scoring.unavailable(metrics),
            device="cuda" if row["device"] not in (None, "cpu") and torch.cuda.is_available() else "cpu",
            threads=row["threads"] or 1,
            window_batch=row["window_batch"],
            trust_code=is_trusted(),
        )
        with tempfile.TemporaryDirectory(prefix="freqbench-") as folder:
            if run.get("reuse") is True or row["attack"] == adversarial_volumes.Imported.name:
                spec = replace(spec, reuse=True, volumes=_copy_volume(self._store.root, unit.cell, unit.ref, folder))
            if self._worker is None or self._worker.spec != spec:
                self._worker = Worker(spec)
            made, masks = self._worker.run(unit)
            outcome = add_surfaces(unit, made, masks)
        return outcome.records[0], outcome.class_records[0]

    def _grid(self, row: Row, run: Mapping[str, Any]) -> Grid:
        """Expands the job of a row to its grid, with the imported cells and the row's target."""
        content = run.get("job") or self._store.job().get("spec")
        if (text := json.dumps(content, sort_keys=True)) not in self._grids:
            where = f"{self._store.root}/runs/{row['run_id']}.json: job"
            job = self._job or stored_job(content, is_trusted(), where)
            self._grids[text] = adversarial_volumes.join_imported(expand(job.copy_named(where)), self._store.root)
        grid = self._grids[text]
        if row["target_model"] in {model.name for cell in grid.cells for model in (cell.source, *cell.targets)}:
            return grid
        checkpoint = run["models"][row["target_model_id"]]["checkpoint"]  # from `score --targets`
        extended = further_targets(grid.job, [f"{row['target_model']}={checkpoint}"])
        return adversarial_volumes.join_imported(extended, self._store.root)


def _lost_reason(row: Row, run: Mapping[str, Any]) -> str:
    """Reason why a record cannot be recomputed from the store; empty if it may be."""
    if row["status"] != "ok":
        return f"a failed row holds no result ({row['error']}): `run` tries it again"
    target = (run.get("models") or {}).get(row["target_model_id"]) or {}
    if target.get("checkpoint") == "" and target.get("sha256") == row["target_model"]:
        return f"its label maps are those of a tool: have {row['target_model']} predict again, then score --predictions"
    return ""


def _unit(grid: Grid, key: Key) -> Unit | None:
    """Unit of work that recomputes a record; None if the grid has no such cell or case, or no such model."""
    cell_id, case_key, target_id = key
    for cell in (each for each in grid.cells if each.cell_id == cell_id):
        refs = [ref for ref in grid.cases[cell.dataset.name] if cell.dataset.case_key(ref) == case_key]
        # A target may be none of the cell's: `score` and `audit --run` score volumes on further models of the job.
        others = (other for other in grid.cells if other.dataset.name == cell.dataset.name)
        models = {model.model_id: model for other in others for model in (other.source, *other.targets)}
        if refs and target_id in models:
            return Unit(cell=cell, ref=refs[0], targets=(models[target_id],))
    return None


def _copy_volume(root: str, cell: Cell, ref: CaseRef, folder: str) -> str:
    """Copies one saved volume into a volumes folder, because scoring it again writes predictions beside it."""
    place, copy = (saved_volumes.folder(storage.join(each, VOLUMES), cell, ref) for each in (root, folder))
    for name in (ADVERSARIAL, FACTS):
        if not storage.exists(storage.join(place, name)):
            raise UserError(f"{place}: expected the saved volume that the row was scored from, found no {name}")
        storage.write_atomic(storage.join(copy, name), storage.read_bytes(storage.join(place, name)))
    return storage.join(folder, VOLUMES)


def reproduce(
    out: str, rows: str, seed: int, job: JobSpec | None, console: Console, first: Collection[Key] = ()
) -> Counter[Verdict]:
    """Recomputes the row whose id begins with `rows`, or `first` and a number of random ones; prints each result."""
    store = Store(out)
    is_number = rows.isdecimal() and len(rows) < LEAST_DIGITS
    keys = sample_rows(store, int(rows), seed, first) if is_number else [find_row(store, rows)]
    counts = Counter[Verdict]()
    for made in Reproducer(store, job).each(keys):
        if not is_number and made.verdict == "not recomputed":
            raise UserError(f"row {made.row_id}: {made.label}: {made.reason}")
        counts[made.verdict] += 1
        _say(made, console)
    if len(keys) != 1:
        console.print(total(counts), soft_wrap=True)
    return counts


def _say(made: Reproduction, console: Console) -> None:
    values = f" ({made.comparison.compared} values)" if made.comparison else ""
    lines = [f"row {made.row_id}: {WORDS[made.verdict]}: {made.label}{values}"]
    lines += [f"  {made.reason}"] if made.reason else []
    left_out: dict[str, list[str]] = {}
    for name, reason in made.comparison.skipped.items() if made.comparison else ():
        left_out.setdefault(reason, []).append(name)
    lines += [f"  left out: {', '.join(names)}: {reason}" for reason, names in left_out.items()]
    console.print("\n".join(lines), soft_wrap=True)
    if made.comparison is None:
        return
    if differences := made.comparison.differences:
        columns = ("stored", "recomputed", "difference", "tolerance")
        table = Table("column", *(Column(name, justify="right", overflow="fold") for name in columns))
        for each in differences[:MOST_DIFFERENCES]:
            by = "" if each.gap is None else f"{each.gap:+.3g}"
            mark = "" if each.is_tolerated else " (beyond)"
            table.add_row(each.column, _value(each.stored), _value(each.found), by, f"{each.tolerance}{mark}")
        if len(differences) > MOST_DIFFERENCES:
            table.caption = f"and {len(differences) - MOST_DIFFERENCES} more"
        console.print(table)
    is_other = bool(differences or made.reason)
    told = [f"differs: {cause.text}" for cause in made.causes if is_other or cause.is_release]
    for text in told or [NONE_DIFFERS] * is_other:
        console.print(f"  {text}", soft_wrap=True)


def _value(value: Any) -> str:
    return repr(value) if isinstance(value, float) else "none" if value is None else str(value)


def total(counts: Mapping[Verdict, int]) -> str:
    """Counts all rows in one line: `20 rows: 19 equal to the bit, 1 DIFFERENT`."""
    parts = [f"{counts[verdict]} {words}" for verdict, words in WORDS.items() if counts.get(verdict)]
    return f"{sum(counts.values())} rows: {', '.join(parts)}"
