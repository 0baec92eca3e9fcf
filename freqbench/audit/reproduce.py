"""Recomputes rows of a store with a worker's code, compares each number, and says what differs between then and now."""

import json
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Column, Table

from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.measures import ADDED_METRIC, MEANS, Tolerance
from freqbench.core.plugins import is_trusted
from freqbench.core.types import IGNORED, CaseRef
from freqbench.engine import provenance, saved_volumes, scoring
from freqbench.engine.rows import add_surfaces
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.exchange import adversarial_volumes
from freqbench.job.cells import Cell, Unit
from freqbench.job.grid import Grid, expand, further_targets
from freqbench.job.schema import JobSpec, stored_job
from freqbench.metrics import METRICS, class_mean
from freqbench.metrics.added import resolved
from freqbench.ops.classes import LabelMaps
from freqbench.results import CLASS_RECORDS, RECORDS, Key, Store
from freqbench.results import Column as StoredColumn
from freqbench.results.releases import code_text, parse_releases
from freqbench.results.schema import ADDED, RELEASES, added_values
from freqbench.results.store import LEAST_DIGITS, find_row, row_id, sample_rows
from freqbench.results.tolerances import EXACT, ROUNDING, TOLERANCES
from freqbench.results.volumes import ADVERSARIAL, FACTS, VOLUMES

Row = Mapping[str, Any]
Verdict = Literal["equal", "close", "different", "not recomputed"]
MOST_DIFFERENCES = 30
WORDS: Mapping[Verdict, str] = {
    **{"equal": "equal to the bit", "close": "equal within the tolerances, not to the bit"},
    **{"different": "DIFFERENT", "not recomputed": "not recomputed"},
}
TEXTS = ("params", "metrics", "null_reasons", ADDED.name)  # they list columns and values, which are compared themselves
LATER = {"resampling_error": "an earlier release left it out of rows that are scored on the file"}
SETTLED = {"code", "freqbench", "ray", "pyarrow"}  # results must not change with these unless an identity does
OTHER_SETTING = "the attack's revision or parameters, seed or precision differ"
ALL_THE_SAME = "differs: nothing that is recorded"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Number of a row beside the same number from elsewhere."""

    column: str  # `class K: COLUMN` for a column of class records
    stored: Any
    found: Any
    tolerance: Tolerance  # for another device or other versions

    @property
    def gap(self) -> float | None:
        """Found minus stored value; None if they are not numbers."""
        numbers = [isinstance(value, int | float) for value in (self.stored, self.found)]
        return float(self.found) - float(self.stored) if all(numbers) else None

    @property
    def is_tolerated(self) -> bool:
        """True if the difference is within the tolerance."""
        return self.gap is not None and self.tolerance.allows(float(self.stored), float(self.found))


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """Result of comparing two versions of a record."""

    compared: int  # values
    differences: tuple[Difference, ...]  # values that are not equal to the bit
    skipped: Mapping[str, str]  # columns that one side lacks, and the reason


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Result of recomputing a record; `close`: within the tolerances, made in other circumstances."""

    row_id: str
    label: str  # description for people
    verdict: Verdict
    comparison: RowComparison | None = None  # None if there was nothing to compare
    by_medpy: tuple[Difference, ...] = ()  # MedPy's scores of the recomputed label maps beside the row's
    facts: tuple[str, ...] = ()  # recorded facts that differ, with their values then and now
    reason: str = ""  # why it was not recomputed, or what has changed


class Reproducer:
    """Recomputes records of one store, which is only read. A `job` in its job's place says where data are here."""

    def __init__(self, store: Store, job: JobSpec | None) -> None:
        self._store = store
        self._job = job
        self._grids: dict[str, Grid] = {}
        self._worker: Worker | None = None

    def each(self, keys: Sequence[Key]) -> Iterator[Reproduction]:
        """Yields one result for each of the `keys`; records that share a worker follow each other."""
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
        here = json.loads(json.dumps(provenance.collect(grid)))  # tuples as lists, as the run's file has them
        if (unit := _unit(grid, key)) is None:
            reason = "; ".join(differing(*_inputs(run, here, row)).values()) or OTHER_SETTING
            others = differing(facts(run, row), facts(here, {**row, RELEASES.name: None}))
            return replace(made, verdict="different", reason=reason, facts=tuple(others.values()))
        computed, found_classes, maps = self._compute(unit, row, run)
        comparison = compare(row, classes, computed, found_classes)
        others = differing(facts(run, row), facts(here, computed))
        is_elsewhere = not others.keys() <= SETTLED
        by_medpy = beside(row, classes, maps, is_elsewhere) if maps else ()
        verdict = _verdict(comparison.differences, by_medpy, is_elsewhere)
        reason = f"recomputing failed: {computed['error']}" if computed["status"] == "failed" else ""
        made = replace(made, verdict=verdict, reason=reason, facts=tuple(others.values()))
        return replace(made, comparison=comparison, by_medpy=by_medpy)

    def _compute(self, unit: Unit, row: Row, run: Mapping[str, Any]) -> tuple[Row, Sequence[Row], LabelMaps | None]:
        """Computes a record, its classes and its label maps (None if it failed) under the row's circumstances."""
        listed = filter(None, (row["metrics"] or "").split(","))
        metrics = tuple(name for name in listed if name in METRICS or resolved(name) == name)
        then = json.loads(row["null_reasons"] or "{}").get(METRICS["lpips"].columns[0])  # why it was not computed
        unavailable = {"lpips": then} if then and "lpips" in metrics else scoring.unavailable(metrics)
        on_gpu = row["device"] not in (None, "cpu") and torch.cuda.is_available()
        spec = WorkerSpec(
            run_id=row["run_id"],
            metrics=metrics,
            unavailable=unavailable,
            device="cuda" if on_gpu else "cpu",
            threads=row["threads"] or 1,
            window_batch=row["window_batch"],
            trust_code=is_trusted(),
            keeps_maps=True,
        )
        with tempfile.TemporaryDirectory(prefix="freqbench-") as folder:
            if run.get("reuse") is True or row["attack"] == adversarial_volumes.Imported.name:
                spec = replace(spec, reuse=True, volumes=_copy_volume(self._store.root, unit.cell, unit.ref, folder))
            if self._worker is None or self._worker.spec != spec:
                self._worker = Worker(spec)
            made, masks = self._worker.run(unit)
            outcome = add_surfaces(unit, made, masks) if scoring.shapes_of(metrics) else made
        return outcome.records[0], outcome.class_records[0], masks.pairs[0] if masks and masks.pairs else None

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


def _verdict(differences: Sequence[Difference], by_medpy: Sequence[Difference], is_elsewhere: bool) -> Verdict:
    if not all(each.is_tolerated for each in by_medpy):
        return "different"
    if not differences:
        return "equal"
    return "close" if is_elsewhere and all(each.is_tolerated for each in differences) else "different"


def _unit(grid: Grid, key: Key) -> Unit | None:
    """Unit of work that recomputes a record; None if the grid has no such cell or case, or no such model."""
    cell_id, case_key, target_id = key
    for cell in (each for each in grid.cells if each.cell_id == cell_id):
        refs = [ref for ref in grid.cases[cell.dataset.name] if cell.dataset.case_key(ref) == case_key]
        # A target may be none of the cell's: `score` and `audit --run` score volumes on further models of the job.
        others = (other for other in grid.cells if other.dataset.name == cell.dataset.name)
        models = chain.from_iterable((other.source, *other.targets) for other in others)
        targets = [model for model in models if model.model_id == target_id]
        if refs and targets:
            return Unit(cell=cell, ref=refs[0], targets=(targets[-1],))
    return None


def _copy_volume(root: str, cell: Cell, ref: CaseRef, folder: str) -> str:
    """Copies one saved volume into a volumes folder, because scoring it again writes predictions beside it."""
    place, copy = (saved_volumes.folder(storage.join(each, VOLUMES), cell, ref) for each in (root, folder))
    for name in (ADVERSARIAL, FACTS):
        if not storage.exists(storage.join(place, name)):
            raise UserError(f"{place}: expected the saved volume that the row was scored from, found no {name}")
        storage.write_atomic(storage.join(copy, name), storage.read_bytes(storage.join(place, name)))
    return storage.join(folder, VOLUMES)


def compare(stored: Row, stored_classes: Sequence[Row], found: Row, found_classes: Sequence[Row]) -> RowComparison:
    """Compares every identity and result column of a record and its classes, to the bit (NaN equals NaN): `stored` and
    `stored_classes` are of the store, `found` and `found_classes` computed now. One that could not be computed then or
    now is skipped with the reason. Only stored `params` count."""
    lacked_then = object_of(stored["null_reasons"] or "{}", "null_reasons") | LATER
    lacked_now = object_of(found["null_reasons"] or "{}", "null_reasons")
    present = sorted(map(_index_of, found_classes))
    then = _values(stored, [row for row in stored_classes if row["class_index"] in present])
    now = _values(found, found_classes)
    params = object_of(stored["params"], "params")
    params_now = object_of(found["params"], "params")
    then["params"] = params
    now["params"] = {name: value for name, value in params_now.items() if name in params}
    then["rows of classes"] = sorted(map(_index_of, stored_classes))
    now["rows of classes"] = present
    compared = 0
    differences = list[Difference]()
    skipped = dict[str, str]()
    for name, value in then.items():
        again = now.get(name)
        column = name.rpartition(": ")[2]
        if name not in now:
            skipped[column] = "its package is here in another version"
        elif value is None and again is not None and name in lacked_then:
            skipped[column] = f"was not computed then: {lacked_then[name]}"
        elif again is None and value is not None and name in lacked_now:
            skipped[column] = f"cannot be computed here: {lacked_now[name]}"
        else:
            compared += 1
            if value != again and not (value != value and again != again):
                differences.append(Difference(column=name, stored=value, found=again, tolerance=_tolerance(name)))
    return RowComparison(compared=compared, differences=tuple(differences), skipped=skipped)


def _index_of(row: Row) -> int:
    return int(row["class_index"])


def _values(row: Row, classes: Sequence[Row]) -> dict[str, Any]:
    """Returns the identities and results of a record by column, and those of its classes by `class K: COLUMN`."""
    values = _compared(row, RECORDS)
    for each in classes:
        of_class = _compared(each, CLASS_RECORDS)
        values |= {f"class {each['class_index']}: {name}": value for name, value in of_class.items()}
    return values


def _compared(row: Row, table: Sequence[StoredColumn]) -> dict[str, Any]:
    names = [column.name for column in table if column.mark != "measured" and column.name not in TEXTS]
    return {name: row[name] for name in names} | added_values(row[ADDED.name])


def _tolerance(name: str) -> Tolerance:
    """Returns the tolerance of a column named as in `_values`."""
    of_class, _, column = name.rpartition(": ")
    known = {each.name for each in (*RECORDS, *CLASS_RECORDS)} | {"rows of classes"}
    agrees = TOLERANCES["class_records" if of_class else "records"]
    return agrees.get(column, EXACT if column in known else ADDED_METRIC)


def facts(run: Row, row: Row) -> dict[str, Any]:
    """Returns what is recorded of the process that made a row, by name, from the file of its `run`; of releases, the
    row's own come first."""
    said = {name: row[name] for name in ("device", "threads", "window_batch")}
    said |= {"processor": run.get("processor"), "code": code_text(run.get("code"))}
    return said | (run.get("versions") or {}) | parse_releases(row.get(RELEASES.name))


def differing(then: Row, now: Row) -> dict[str, str]:
    """Returns a line for each fact that differs between `then` and `now`, or that only one side has, by its name."""
    shown = {name: [then.get(name), now.get(name)] for name in {**then, **now}}
    return {name: f"{name}: {_fact(one)} then, {_fact(two)} now" for name, (one, two) in shown.items() if one != two}


def _fact(value: Any) -> str:
    return f"{'none' if value is None else value!s:.40}"


def _inputs(run: Row, here: Row, row: Row) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what a run's file and the same facts `here` say of a row's networks and data, by what it is."""
    surrogates = object_of(row["params"], "params").get("surrogates", ())
    ids = {row[f"{role}_model"]: row[f"{role}_model_id"] for role in ("source", "target")}
    ids |= {each["name"]: model for model, each in (run.get("models") or {}).items() if each["name"] in surrogates}
    ids_here = {each["name"]: model for model, each in here["models"].items() if each["name"] in ids}
    return _inputs_of(run, row, ids), _inputs_of(here, row, ids_here)


def _inputs_of(run: Row, row: Row, ids: Mapping[str, str]) -> dict[str, Any]:
    name = row["dataset"]
    case = row["case_id"]
    models = run.get("models") or {}
    data = (run.get("datasets") or {}).get(name) or {}
    said = {f"recipe of {name}: {key}": value for key, value in (data.get("recipe") or {}).items()}
    said |= {f"files of case {case} of {name}": (data.get("cases") or {}).get(case)}
    said |= {f"checkpoint of {model}": (models.get(key) or {}).get("sha256") for model, key in ids.items()}
    return said | {f"model {model}": key for model, key in ids.items()}


def beside(row: Row, classes: Sequence[Row], maps: LabelMaps, is_elsewhere: bool) -> tuple[Difference, ...]:
    """Holds a row's Dice and HD95, means and classes, against MedPy's: within rounding, or the columns' tolerances if
    the row was made elsewhere (`is_elsewhere`), where label maps may be others. Leaves out what the row does not
    have."""
    of_class = medpy_scores(maps)
    found: dict[str, float] = {}
    for name, values in of_class.items():
        found |= {f"class {k}: {name}": value for k, value in enumerate(values)}
    found |= {mean: class_mean(of_class[of][first:]) for mean, (of, first) in MEANS.items() if of in of_class}
    stored = _values(row, classes)
    differences = []
    for name, value in found.items():
        if (own := stored.get(name)) is not None:
            limit = _tolerance(name) if is_elsewhere else ROUNDING
            differences.append(Difference(column=f"{name} by MedPy", stored=own, found=float(value), tolerance=limit))
    return tuple(differences)


def medpy_scores(maps: LabelMaps) -> dict[str, npt.NDArray[np.float64]]:
    """Returns MedPy's `dsc` and `hd95_medpy_mm` of each class of two label maps, by the columns' conventions.

    - Dice is NaN for a class that the label lacks, the distance for one that either map lacks (MedPy raises an error).
    - Voxels that do not count are left out of Dice; for surfaces they are background in both maps.
    - A region is held against all else; class 0 are the voxels in none, and voxels that do not count are outside each.
    - For surfaces a class is cut to the box that holds it in both maps: beyond it there is background.
    """
    from medpy.metric import binary
    from scipy.ndimage import find_objects

    pairs = maps.each()
    number = len(maps.classes)
    dice, distances = np.full((2, number), np.nan)
    for k in range(number):
        pair, value = (pairs[k], 1) if maps.classes.overlap else (maps, k)
        counts = pair.label.numpy() != IGNORED
        pred, label = (np.where(counts, each.numpy(), 0) == value for each in (pair.pred, pair.label))
        if label[counts].any():
            dice[k] = binary.dc(pred[counts], label[counts])
        if pred.any() and label.any():
            (box,) = find_objects((pred | label).view(np.uint8))
            distances[k] = binary.hd95(pred[box], label[box], voxelspacing=maps.spacing)
    return {"dsc": dice, "hd95_medpy_mm": distances}


def reproduce(
    out: str, rows: str, seed: int, job: JobSpec | None, console: Console, first: Collection[Key] = ()
) -> Counter[Verdict]:
    """Recomputes rows of a store; prints each result.

    Args:
        out: root of the store.
        rows: begin of the id of one row, or the number of random ones.
        seed: of their draw.
        job: in the place of the store's, to say where data are here; None: the store's.
        console: gets the results.
        first: keys of rows to recompute besides random ones, before them.
    """
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
    compared = made.comparison or RowComparison(compared=0, differences=(), skipped={})
    values = f" ({compared.compared} values)" if made.comparison else ""
    lines = [f"row {made.row_id}: {WORDS[made.verdict]}: {made.label}{values}"]
    lines += [f"  {made.reason}"] if made.reason else []
    for reason in dict.fromkeys(compared.skipped.values()):
        names = [name for name, why in compared.skipped.items() if why == reason]
        lines.append(f"  left out: {', '.join(names)}: {reason}")
    means = [each for each in made.by_medpy if not each.column.startswith("class ")]
    shown = [f"{each.column} {each.found:.6g} beside {each.stored:.6g}" for each in means]
    lines += [f"  {', '.join(shown)}"] if shown else []
    console.print("\n".join(lines), soft_wrap=True)
    differences = [*compared.differences, *(each for each in made.by_medpy if not each.is_tolerated)]
    if differences:
        console.print(_table(differences))
    told = f"differs: {'; '.join(made.facts)}" if made.facts else ALL_THE_SAME
    if made.facts or differences:
        console.print(f"  {told}", soft_wrap=True)


def _table(differences: Sequence[Difference]) -> Table:
    columns = ("stored", "recomputed", "difference", "tolerance")
    table = Table("column", *(Column(name, justify="right", overflow="fold") for name in columns))
    for each in differences[:MOST_DIFFERENCES]:
        by = "" if each.gap is None else f"{each.gap:+.3g}"
        mark = "" if each.is_tolerated else " (beyond)"
        table.add_row(each.column, _value(each.stored), _value(each.found), by, f"{each.tolerance}{mark}")
    if len(differences) > MOST_DIFFERENCES:
        table.caption = f"and {len(differences) - MOST_DIFFERENCES} more"
    return table


def _value(value: Any) -> str:
    return repr(value) if isinstance(value, float) else "none" if value is None else str(value)


def total(counts: Mapping[Verdict, int]) -> str:
    """Counts all rows by verdict in one line: `20 rows: 19 equal to the bit, 1 DIFFERENT`, from `counts`."""
    parts = [f"{counts[verdict]} {words}" for verdict, words in WORDS.items() if counts.get(verdict)]
    return f"{sum(counts.values())} rows: {', '.join(parts)}"
