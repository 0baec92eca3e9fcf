"""Scores label maps that third-party tools predicted for exported volumes, on the files' own grid."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import RootModel, StrictInt, StrictStr, field_validator
from rich.console import Console
from torch import Tensor

from freqbench.core import config
from freqbench.core.documents import object_of
from freqbench.core.errors import DataError, UserError, unknown
from freqbench.core.files import storage
from freqbench.core.measures import METRIC_OF, METRICS
from freqbench.core.types import NativeCase, triple
from freqbench.data import Dataset, ListedFolder, image_files
from freqbench.data.headers import Header
from freqbench.data.labels import few
from freqbench.engine import rows, run, saved_volumes, scoring
from freqbench.engine.rows import Outcome
from freqbench.engine.run import Additions, Summary
from freqbench.engine.scoring import PredictionScores
from freqbench.engine.worker import WorkerSpec
from freqbench.exchange import export
from freqbench.job.cells import Unit
from freqbench.job.grid import Grid
from freqbench.job.plan import Plan
from freqbench.metrics import Scores, metric_of, voxel_success
from freqbench.models import ModelSpec
from freqbench.results import KEY, Store
from freqbench.results.volumes import VOLUMES

ARCH = "predictions"
COPIED = tuple(column for column, name in METRIC_OF.items() if METRICS[name].of == "volumes")
BESIDE = ("eps_native", "num_windows", "num_forwards", "num_backwards", "attack_seconds")
LabelTable = Mapping[int, int]
Former = Mapping[tuple[str, str], Mapping[str, Any]]  # of each cell and case, the row that distances are taken from


class LabelMap(RootModel[dict[StrictInt, StrictInt | StrictStr]]):
    """Classes of a tool's label numbers, by name or number; labels that are not listed are background."""

    @field_validator("root", mode="before")
    @classmethod
    def _numbers_lead_to_classes(cls, content: Any) -> Any:
        if not content:
            raise ValueError("expected label numbers with classes, such as `1: spleen`, got none: name the classes")
        for key in content if isinstance(content, dict) else ():
            if not isinstance(key, int) or isinstance(key, bool) or key < 0:
                raise ValueError(f"expected the tool's label numbers with classes, such as `1: spleen`, got {key!r}")
        return content

    def table(self, dataset: Dataset, where: str) -> dict[int, int]:
        """Maps each label to its class in `dataset`; UserError, which begins with `where`, for an unknown class."""
        names = dataset.class_names
        for label, value in self.root.items():
            if isinstance(value, str) and value not in names:
                raise UserError(f"{where}: {label}: {dataset.name}: {unknown('class', value, names)}")
            if isinstance(value, int) and not 0 <= value < len(names):
                raise UserError(f"{where}: {label}: {dataset.name}: expected a class 0..{len(names) - 1}, got {value}")
        return {label: names.index(v) if isinstance(v, str) else v for label, v in sorted(self.root.items())}


def tool(name: str, table: LabelTable | None, num_classes: int) -> ModelSpec:
    """Describes a tool as a target whose `model_id` is by name, label map and classes: new files replace old rows.
    `table` has the class of each label (None: they are the dataset's), of `num_classes` with the background."""
    args = {} if table is None else {"label_map": table}
    return ModelSpec(
        name=name, arch=ARCH, args=args, roi=(1, 1, 1), num_classes=num_classes, checkpoint="", checkpoint_sha256=name
    )


@dataclass(frozen=True, kw_only=True)
class _Case:
    """Files of one case: the label maps of each unit's volume, and of the clean one if there is one."""

    units: tuple[Unit, ...]
    paths: tuple[str, ...]
    clean: str | None

    @property
    def dataset(self) -> Dataset:
        return self.units[0].cell.dataset


def score(grid: Grid, out: str, predictions: str, name: str, label_map: str | None, console: Console) -> Summary:
    """Scores label maps that a tool predicted for exported volumes against the native label maps, in millimetres too.
    The distances of a volume (SSIM, LPIPS, ...) do not depend on a target: they are copied from the store's record of
    the same cell and case. Raises UserError for no label map, or one of another grid or with other labels; nothing is
    stored then.

    Args:
        grid: cells and cases of the store's job.
        out: the store, a folder or URI.
        predictions: folder or URI of the label maps, named as `export` names the volumes, and on their grid.
        name: the tool's name in tables.
        label_map: path of a YAML file, see LabelMap; None: the tool's labels are the dataset's. Maps of regions have
            the labels that `export.stated_regions` names, and no `label_map`.
        console: shows progress.
    """
    for cell in grid.cells:
        if name in [model.name for model in (cell.source, *cell.targets)]:
            raise UserError(f"--name: {name!r} is a model of the job already: give the tool another name")
    mapping = config.load(label_map, LabelMap) if label_map else None
    datasets = {cell.dataset.name: cell.dataset for cell in grid.cells}
    for dataset in datasets.values():
        _require_map(dataset, label_map)
    tables = {key: _table(dataset, mapping, str(label_map)) for key, dataset in datasets.items()}
    targets = {key: tool(name, tables[key], len(dataset.classes)) for key, dataset in datasets.items()}
    kept = [cell for cell in grid.cells if not cell.attack.moves_labels]
    grid = replace(grid, cells=tuple(replace(cell, targets=(targets[cell.dataset.name],)) for cell in kept))
    cases = _find_cases(grid, out, predictions, console)
    for case in cases:
        _require_scorable(case, grid, predictions, tables[case.dataset.name])
    units = tuple(chain.from_iterable(case.units for case in cases))
    metrics = tuple(metric for metric in grid.metrics if metric_of(metric).of == "labels")  # computed here
    plan = Plan(grid=grid, units=units, num_done=0, metrics=metrics)
    store = Store(out)
    recorder = run.Recorder(store, plan, console, attacks=False)
    with recorder.record_rows() as spec:
        former = _former(store)
        for case in cases:
            for unit, outcome in _outcomes(case, spec, grid.metrics, tables[case.dataset.name], former):
                recorder.begin(unit)
                recorder.take(outcome)
                recorder.tick([])
    Additions.read(store).add_targets(grid).write(store, grid.job)
    recorder.require_kept()
    return recorder.summary


def _require_map(dataset: Dataset, label_map: str | None) -> None:
    """Raises UserError for a label map that a dataset takes none of, or for none where it must have one."""
    if dataset.classes.overlap:
        export.stated_regions(dataset)
        if label_map:
            raise UserError(
                f"--label-map: expected none, as a label of {dataset.name} may lie in several regions, got "
                f"{label_map}: give maps with the labels of the export's {export.REGIONS}"
            )
    elif not label_map and isinstance(dataset, ListedFolder) and dataset.reading.moved:
        raise UserError(
            f"--label-map: expected one, as labels in the files of {dataset.name} are other classes in the job, "
            "got none: name the class of each of the tool's labels"
        )


def _table(dataset: Dataset, mapping: LabelMap | None, where: str) -> LabelTable | None:
    """Maps the labels of a tool's files to classes, or to codes of regions; None where they are the dataset's own."""
    if dataset.classes.overlap:
        return dataset.classes.stated
    return mapping.table(dataset, where) if mapping else None


def _require_scorable(case: _Case, grid: Grid, predictions: str, table: LabelTable | None) -> None:
    """Reads the label maps of a case; raises UserError for one that is missing or does not fit."""
    dataset = case.dataset
    first = case.units[0]
    if dataset.reference == "prediction" and not case.clean:
        wanted = export.path_of(grid, first.cell, first.ref, is_clean=True)
        raise UserError(
            f"{predictions}: expected {wanted}, as {dataset.name} has reference: prediction and scores hold "
            "the tool against its label map of the clean volume, found none: predict that volume too"
        )
    native = dataset.native(first.ref)
    for path in filter(None, (*case.paths, case.clean)):
        _read(path, native, table, dataset)


def _find_cases(grid: Grid, out: str, folder: str, console: Console) -> list[_Case]:
    """Finds the cases with label maps; reports missing ones."""
    files: dict[tuple[str, str], list[tuple[Unit, str]]] = {}
    missing: list[str] = []
    is_saved = saved_volumes.find_saved(storage.join(out, VOLUMES))
    for unit in grid.units():
        name = export.path_of(grid, unit.cell, unit.ref, is_clean=False)
        if storage.exists(storage.join(folder, name)):
            files.setdefault((unit.cell.dataset.name, unit.ref.case_id), []).append((unit, storage.join(folder, name)))
        elif is_saved(unit.cell, unit.ref):
            missing.append(name)
    if not files:
        example = missing[0] if missing else "pgd-unet-0123456789abcdef/case.nii.gz"
        found = "found none: check the path"
        raise UserError(f"{folder}: expected label maps under the names of `export`, such as {example}, {found}")
    cases = []
    for pairs in files.values():
        units, paths = zip(*pairs, strict=True)
        name = export.path_of(grid, units[0].cell, units[0].ref, is_clean=True)
        is_there = storage.exists(storage.join(folder, name))
        missing.extend([] if is_there else [name])
        cases.append(_Case(units=units, paths=paths, clean=storage.join(folder, name) if is_there else None))
    export.tell_left_out(console, "label maps are not there and", missing)
    return cases


def _read(path: str, native: NativeCase, table: LabelTable | None, dataset: Dataset) -> Tensor:
    """Reads a tool's label map as classes of the dataset, uint8 `[H, W, D]`; DataError for another grid or labels."""
    header = image_files.read_header(image_files.fetch(path))
    shape = triple(native.label.shape[1:])
    header.check_same_grid(Header(path=Path(native.source), shape=shape, spacing=native.spacing, affine=native.affine))
    labels = image_files.read_integers(header)
    if table is None:
        if (highest := int(labels.max())) >= len(dataset.classes):
            got = f"got {highest}: give --label-map with the tool's labels"
            raise DataError(f"{header.path}: expected labels 0 to {len(dataset.classes) - 1} of {dataset.name}, {got}")
        return torch.from_numpy(labels.astype(np.uint8))
    if dataset.classes.overlap and (strange := sorted({*np.unique(labels).astype(int).tolist()} - table.keys())):
        got = f"got {strange[0]}: give maps with the labels of the export's {export.REGIONS}"
        raise DataError(f"{header.path}: expected labels {few([*map(str, sorted(table))])} of {dataset.name}, {got}")
    classes = np.zeros(labels.shape, np.uint8)
    for label, index in table.items():
        classes[labels == label] = index
    return torch.from_numpy(classes)


def _outcomes(
    case: _Case, spec: WorkerSpec, metrics: Sequence[str], table: LabelTable | None, former: Former
) -> Iterator[tuple[Unit, Outcome]]:
    dataset = case.dataset
    native = case.dataset.native(case.units[0].ref)
    clean = _read(case.clean, native, table, dataset) if case.clean else None
    if clean is not None and dataset.reference == "prediction":
        native = replace(native, label=clean[None])

    def scores_of(pred: Tensor) -> list[PredictionScores]:
        return scoring.score_prediction(scoring.label_maps(pred, native, dataset), spec.metrics)

    parts = [] if clean is None else [scoring.clean_columns(part) for part in scores_of(clean)]
    for unit, path in zip(case.units, case.paths, strict=True):
        started = time.perf_counter()
        pred = _read(path, native, table, dataset)
        scores = (*parts, *scores_of(pred))
        row = former.get((unit.cell.cell_id, dataset.case_key(unit.ref)))
        volume = _volume(row, spec.metrics, without_clean=clean is None)
        copied = metrics if row is None else (row["metrics"] or "").split(",")
        covered = {*spec.metrics, *copied}
        flips = {"voxel_success": None if clean is None else voxel_success(clean, pred, native.label)}
        beside = {column: row and row[column] for column in BESIDE} | {"scored_on": "file"}
        seconds = time.perf_counter() - started
        measured = {"run_id": spec.run_id, "finished_at": datetime.now(UTC), "score_seconds": seconds, "device": "cpu"}
        measured["releases"] = rows.releases_of(unit.cell, metrics)
        computed = [metric for metric in metrics if metric in covered and metric_of(metric).of != "probabilities"]
        yield unit, rows.scored_outcome(unit, None, volume, [scores], [flips | beside], computed, measured)


def _volume(row: Mapping[str, Any] | None, metrics: Sequence[str], without_clean: bool) -> Scores:
    """Copies the distances of a volume from its record, with the reasons for missing ones."""
    reasons = {"resampling_error": "not computed for label maps of others: it stands in the export's manifest"}
    if row is None:
        reasons |= dict.fromkeys((*COPIED, *BESIDE), "no record of this cell and case to take it from")
    else:
        stated = object_of(row["null_reasons"] or "{}", "null_reasons")
        reasons |= {column: stated[column] for column in COPIED if column in stated}
    if without_clean:
        columns = (column for column, name in METRIC_OF.items() if name in metrics and column.endswith("_clean"))
        reasons |= dict.fromkeys((*columns, "voxel_success"), "no label map of the clean volume")
    values = {column: row[column] for column in COPIED if row and row[column] is not None}
    return Scores(values=values | dict.fromkeys(reasons, np.nan), reasons=reasons)


def _former(store: Store) -> Former:
    """Picks for each cell and case the ok record with the most metrics."""
    columns = (*KEY, "status", "metrics", "null_reasons", *COPIED, *BESIDE)
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in store.records(columns).to_pylist():
        key = row["cell_id"], row["case_key"]
        if row["status"] == "ok" and (key not in best or len(row["metrics"]) > len(best[key]["metrics"])):
            best[key] = row
    return best
