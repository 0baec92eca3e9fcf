"""Makes rows of the two tables from a unit and its scores, but for surfaces and components, scored outside workers."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from freqbench.core.code import identify
from freqbench.core.errors import UserError, one_line
from freqbench.core.identity import OfProcess
from freqbench.core.machine import releases
from freqbench.core.types import Case, ScoredOn
from freqbench.engine.attacking import native_budget
from freqbench.engine.scoring import PredictionScores, score_shapes
from freqbench.job.cells import Cell, Unit
from freqbench.metrics import Scores
from freqbench.metrics.added import load, name_of
from freqbench.models import ModelSpec
from freqbench.ops.classes import LabelMaps
from freqbench.pipelines import Pipeline
from freqbench.results import CLASS_RECORDS, RECORDS
from freqbench.results.glimpses import Glimpse
from freqbench.results.schema import CAUTIONS, COMMIT, UNTOLD

Row = dict[str, Any]

# Rows without a value, their columns in order.
_RECORD: Mapping[str, None] = dict.fromkeys(column.name for column in RECORDS)
_CLASS_RECORD: Mapping[str, None] = dict.fromkeys(column.name for column in CLASS_RECORDS)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a unit."""

    records: tuple[Row, ...]  # one per target, first those with scores; the others tell why there are none
    class_records: tuple[list[Row], ...]  # one list per record, empty for one without scores
    clean: tuple[Row, ...] = ()  # facts on clean predictions, one per target of a clean unit, which are not stored
    glimpse: Glimpse | None = None  # for a case that lost more than all earlier ones
    load_seconds: float = 0.0  # spent on reading and writing models, cases and volumes
    device_seconds: float = 0.0  # the rest of the worker's time: attack, prediction and scores
    slowdown: float = 1.0  # factor by which other processes slowed the worker down
    forms: Mapping[str, str] = field(default_factory=dict)  # of the functions that the worker's process compiled

    @property
    def errors(self) -> list[str]:
        """Reasons of the records without scores."""
        return [row["error"] for row in self.records if row["status"] == "failed"]

    @property
    def failed(self) -> bool:
        """True if no record has scores."""
        return len(self.errors) == len(self.records)

    def add_scores(self, scores: Sequence[PredictionScores]) -> "Outcome":
        """Returns a copy with more columns, one PredictionScores per record that has scores."""
        records = list(self.records)
        classes = list(self.class_records)
        for i, new in zip(range(len(records) - len(self.errors)), scores, strict=True):
            records[i] = _fold_added({**records[i], **new.record}, _RECORD)
            pairs = zip(classes[i], new.classes, strict=True)
            classes[i] = [_fold_added({**row, **values}, _CLASS_RECORD) for row, values in pairs]
        return replace(self, records=tuple(records), class_records=tuple(classes))

    def measured_values(self) -> Row:
        """Returns the columns that were measured in this execution."""
        return {column.name: self.records[0][column.name] for column in RECORDS if column.mark == "measured"}


def failure(unit: Unit, error: str, measured: Mapping[str, Any]) -> Outcome:
    """Returns rows that tell by an `error` why a unit has no scores, beside the columns `measured` by then; of a clean
    unit, facts that do."""
    if unit.is_clean:
        facts = tuple(clean_facts(unit, target, dsc_foreground_clean=None, error=error) for target in unit.targets)
        return Outcome(records=(), class_records=(), clean=facts)
    told = {**measured, "status": "failed", "error": error, "metrics": ""}
    records = tuple(_empty_record(unit, target) | told for target in unit.targets)
    return Outcome(records=records, class_records=tuple([] for _ in records))


def clean_facts(unit: Unit, target: ModelSpec, **facts: Any) -> Row:
    """Returns facts on the clean prediction of a unit's case by one target, beside what tells both."""
    ref = unit.ref
    _, case_key, model_id = unit.cell.key(ref, target)
    case = {"case_key": case_key, "case_id": ref.case_id, "patient_id": ref.patient_id}
    return {"dataset": unit.cell.dataset.name, "target_model_id": model_id, **case, **facts}


def scored_outcome(
    unit: Unit,
    case: Case | None,
    volume: Scores,
    predictions: Sequence[tuple[PredictionScores, ...]],
    own: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    measured: Mapping[str, Any],
) -> Outcome:
    """Returns the rows of a unit that succeeded.

    Args:
        unit: the unit, with the targets that were scored.
        case: the case as the source sees it; without one, `own` has the budget in the data's unit.
        volume: distances of the adversarial volume, for the rows of all targets.
        predictions: the scores of each target.
        own: further columns of each target.
        metrics: the metrics that the rows cover.
        measured: columns of this execution, such as its time and its device, for the rows of all targets.
    """
    reasons = volume.reasons
    cell = unit.cell
    values = {column: None if column in reasons else value for column, value in volume.values.items()}
    shared = {
        **values,
        **measured,
        "status": "ok",
        "metrics": ",".join(metrics),
        "null_reasons": json.dumps(dict(reasons), sort_keys=True) if reasons else None,
        "eps_native": native_budget(cell.attack, case) if case else None,
    }
    added = [type(load(name_of(text))) for text in metrics if "@" in text]
    records = []
    class_records = []
    for target, parts, columns in zip(unit.targets, predictions, own, strict=True):
        record = {**_empty_record(unit, target), **shared, **columns}
        # Why the row stands for this run alone, if no identity covers all that it depends on.
        codes = *cell.codes, *target.codes, *map(identify, added)
        lacking = [key.why for key in (cell.cell_id, target.model_id) if isinstance(key, OfProcess)]
        lacking += [f"its code reads {code.opened}, which no identity covers" for code in codes if code.opened]
        untold = f"{UNTOLD}: {lacking[0]}" if lacking else None
        cautions = shared.get("caution"), columns.get("caution"), target.caution, untold
        record["caution"] = CAUTIONS.join(filter(None, cautions)) or None
        empty = {**_CLASS_RECORD, **{name: record[name] for name in COMMIT}}
        classes: list[Row] = []
        for k, class_name in enumerate(cell.dataset.class_names):
            classes.append({**empty, "class_index": k, "class_name": class_name})
        for part in parts:
            record |= part.record
            classes = [row | {**values} for row, values in zip(classes, part.classes, strict=True)]
        records.append(_fold_added(record, _RECORD))
        class_records.append([_fold_added(row, _CLASS_RECORD) for row in classes])
    return Outcome(records=tuple(records), class_records=tuple(class_records))


def _fold_added(row: Row, columns: Mapping[str, None]) -> Row:
    """Returns a row with its values that have no column, of other packages' metrics, in the text `added_metrics`."""
    added = row.keys() - columns
    if not added:
        return row
    values = {name: None if math.isnan(row[name]) else row[name] for name in added}
    values |= json.loads(row["added_metrics"] or "{}")
    own = {name: value for name, value in row.items() if name in columns}
    return own | {"added_metrics": json.dumps(values, sort_keys=True)}


def _empty_record(unit: Unit, target: ModelSpec) -> Row:
    """Returns a record with the identity columns filled and all others None."""
    cell = unit.cell
    ref = unit.ref
    _, case_key, target_model_id = cell.key(ref, target)
    identity = {
        "case_key": case_key,
        "target_model_id": target_model_id,
        "case_id": ref.case_id,
        "patient_id": ref.patient_id,
        "target_model": target.name,
        "target_defence": target.defence_text,
        "target_method": target.method_id,
    }
    if cell.scored_on == ScoredOn.FILE and isinstance(target.space, Pipeline):
        identity["restored_by"] = target.space.restoring(target.head, target.class_map is not None)
    return {**_RECORD, **cell_columns(cell), **identity}


def releases_of(cell: Cell, metrics: Iterable[str]) -> str:
    """Returns the releases here of what moves the numbers of a cell that is scored by `metrics`."""
    named = {*metrics, getattr(cell.dataset, "loader", "")}
    for model in (*cell.models, *cell.targets):
        for net in (model, *model.members):
            named.add(net.arch)
            if isinstance(net.space, Pipeline):
                named.add(net.space.kind)
    return releases(frozenset(named))


def cell_columns(cell: Cell) -> Row:
    """Returns the columns that all records of a cell share."""
    attack = cell.attack
    source = cell.source
    dataset = cell.dataset
    budget = float(getattr(attack, attack.budget_name)) if attack.budget_name else None
    return {
        "cell_id": cell.cell_id,
        "source_model_id": source.model_id,
        "dataset": dataset.name,
        "reference": dataset.reference,
        "scored_on": cell.scored_on.value,
        "source_model": source.name,
        "source_defence": source.defence_text,
        "attack": attack.name,
        "variant": attack.variant,
        "params": cell.params,
        "budget_name": attack.budget_name,
        "budget": budget,
        "threat_model": attack.threat_model,
        "seed": cell.seed,
        "precision": cell.precision,
        "compile": cell.compile,
        "num_classes": len(dataset.classes),
    }


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Label maps for scoring surfaces and components on any core: besides rows, the only output of a worker."""

    pairs: tuple[LabelMaps, ...]  # one per record with scores
    metrics: tuple[str, ...]


def score_masks(masks: Masks) -> list[PredictionScores]:
    """Scores every prediction of `masks` in `scoring.shapes_of` of the requested metrics."""
    return [score_shapes(maps, masks.metrics) for maps in masks.pairs]


def add_surfaces(unit: Unit, outcome: Outcome, masks: Masks | None) -> Outcome:
    """Adds the scores of the masks to the outcome of a `unit`; an error there becomes failed rows."""
    if masks is None:
        return outcome
    try:
        return outcome.add_scores(score_masks(masks))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (as in Worker.run)
        return failure(unit, reason_of(error), outcome.measured_values())


def reason_of(error: BaseException) -> str:
    """Returns an error in one line, and logs all of it."""
    logger.info("unit failed", exc_info=error)
    text = one_line(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
