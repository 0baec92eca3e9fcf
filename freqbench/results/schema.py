"""Defines the columns of a result store, each with its type, unit, direction, mark and meaning. There are two tables:
`records`, one row per (cell, case, target model), and `class_records`, one row per record and class. A file holds both
(`ROWS`): a row has its classes in a list, without the columns that they share with it. A metric that is undefined on a
volume (no such class in the label, nothing predicted) is NaN; one that could not be computed is null, with the reason
under its name in `null_reasons`; one not asked for is null without a reason."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.core.measures import METRICS, NUMBERS, Better, Number

SCHEMA_VERSION = 2
VERSION_FIELD = b"freqbench_schema_version"
KEY = ("cell_id", "case_key", "target_model_id")
COMMIT = (*KEY, "run_id", "finished_at")

Mark = Literal["identity", "result", "measured"]


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, which is fast
class Column:
    """One column of a table; its mark is `identity`, `result` (equal on every machine, to rounding) or `measured`."""

    name: str
    type: pa.DataType
    unit: str  # empty if it has none
    direction: Better
    mark: Mark
    meaning: str
    required: bool = False  # True if a row without it is a mistake of the program


_TEXT = pa.string()
_FLOAT = pa.float64()
_INT = pa.int64()
_BOOL = pa.bool_()
_TIME = pa.timestamp("us", tz="UTC")


def _identity(name: str, meaning: str, kind: pa.DataType = _TEXT, unit: str = "", required: bool = True) -> Column:
    return Column(name, kind, unit, "", "identity", meaning, required)


def _score(name: str, unit: str, direction: Better, meaning: str) -> Column:
    return Column(name, _FLOAT, unit, direction, "result", meaning)


def _text(name: str, meaning: str, mark: Mark = "result", required: bool = False) -> Column:
    return Column(name, _TEXT, "", "", mark, meaning, required)


def _count(name: str, meaning: str) -> Column:
    return Column(name, _INT, "count", "", "result", meaning)


def _metric_columns(numbers: Iterable[Number], of_classes: bool = False) -> Iterator[Column]:
    """Yields the columns of numbers of metrics in records, or in class records."""
    for number in numbers:
        for name, meaning, _ in number.columns(of_classes):
            yield Column(name, _INT if number.is_count else _FLOAT, number.unit, number.better, "result", meaning)


def _fractions(name: str, meaning: str) -> Iterator[Column]:
    """Yields the column of a fraction, and its counterpart for the clean volume's prediction."""
    yield _score(name, "fraction", "higher", meaning)
    yield _score(f"{name}_clean", "fraction", "higher", "the same on the clean volume")


def _measured_column(name: str, kind: pa.DataType, unit: str, meaning: str, required: bool = False) -> Column:
    return Column(name, kind, unit, "", "measured", meaning, required)


_KEYS = (
    _identity("cell_id", "dataset recipe, source model, attack with all parameters, seed, precision, protocol"),
    _identity("case_key", "dataset recipe and the content of the case's files"),
    _identity("target_model_id", "the model whose prediction is scored"),
)
_CHANGED = METRICS["voxel_success"].numbers
ADDED = _text(
    "added_metrics",
    "values of metrics of other packages, and the `suspicion` of the target's detector, JSON text {NAME: value, "
    "NAME_clean: value}, null where undefined; null if there are none",
)
RESTORED = _text(
    "restored_by",
    "toolchain and rule of the target's pipeline that made labels on the file's grid; null if freqbench made them",
    "identity",
)
RELEASES = _measured_column(
    *("releases", _TEXT, ""),
    "releases of what moves the row's numbers, of the process that made it: `NAME RELEASE`, separated by commas",
)
CLEAN_NUMBER = _measured_column(
    *("clean_number", _TEXT, ""),
    "what the target's clean number rests on: `proven by its own predictions ...`, `stated`, or values assumed",
)
_RUN_ID = _measured_column("run_id", _TEXT, "", "the execution that wrote the row", required=True)
_FINISHED = _measured_column("finished_at", _TIME, "UTC", "time when the row was finished", required=True)

_UNDEFINED = [each for each in NUMBERS if each.undefined]
_COUNTED = [each for each in NUMBERS if each.is_count and not each.undefined]
_SCORED = [each for each in NUMBERS if not each.is_count and each not in _CHANGED]

RECORDS: tuple[Column, ...] = (
    *_KEYS,
    _identity("source_model_id", "the model whose gradients made the volume"),
    _identity("dataset", "name of the dataset"),
    _identity(
        "reference",
        "`label`: the label map. `prediction`: the target's own clean prediction; scores are then agreement, and "
        "`_clean` columns are perfect",
        required=False,
    ),
    _identity(
        "scored_on",
        "the grid on which predictions are held against labels: `grid`, the one that is attacked; `file`, that of the "
        "case's file; distances between volumes are always on the attacked grid",
        required=False,
    ),
    RESTORED,
    _identity("case_id", "name of the case within its dataset"),
    _identity("patient_id", "name of the patient: several cases may share it"),
    _identity("source_model", "name of the model whose gradients made the volume"),
    _identity("target_model", "name of the model whose prediction is scored"),
    _identity(
        "source_defence",
        "the source's defence: JSON text of its parameters, `adaptive` and the model_id `undefended`; null if none",
        required=False,
    ),
    _identity("target_defence", "the same of the target", required=False),
    _identity(
        "target_method",
        "16 hex digits of the training and use of the target's network without the seed of the training, which its "
        "replicates share; null if unknown",
        required=False,
    ),
    _identity("attack", "name of the attack"),
    _identity("variant", "the authors' version of the attack: paper, released, ...", required=False),
    _identity("params", "all parameters of the attack, JSON text"),
    _identity("budget_name", "the parameter that bounds the attack; null if none does", required=False),
    _identity("budget", "value of that parameter, in its own unit", _FLOAT, required=False),
    _identity(
        "threat_model",
        "the set of volumes that the attack may choose from, by its name in docs/background/threat-models.md; "
        "linf-minimal, l2-minimal: no bound, the change is made small (of almaprox, the budget is the share of voxels "
        "to turn wrong); corruption: no attacker",
    ),
    _identity("seed", "seed of the draws; null if the attack draws nothing", _INT, required=False),
    _identity("precision", "fp32, tf32 or bf16"),
    _identity("compile", "true if the model was compiled", _BOOL),
    _identity("num_classes", "classes including background", _INT, "count"),
    _text("status", "ok or failed", required=True),
    _text("error", "reason for the failure, one line; null if ok"),
    _text(
        "caution",
        "why a row that is ok says little of the model, such as gradients of 0, label voxels that the grid has lost, "
        "or intensities off the window; reasons are separated by `; `",
    ),
    _text(
        "metrics",
        "the metrics that this row covers, separated by commas; one of another package as "
        "`NAME@PACKAGE VERSION SOURCE`, SOURCE being 8 hex digits of its code's identity",
    ),
    _text("null_reasons", "JSON text {column: reason why it is null}; null if no column is"),
    *_metric_columns(_SCORED),
    _score("eps_native", "the data's unit", "", "the budget in the data's own unit (HU for CT)"),
    _score(
        "resampling_error",
        "intensity 0..1",
        "lower",
        "root mean square of the volume's change on its way to the native grid and back, for targets that see it "
        "through that grid, and where a pipeline with another grid is scored on the file; null elsewhere",
    ),
    _score("displacement_mean_mm", "mm", "lower", "mean displacement of a voxel; null if nothing is moved"),
    _score("displacement_max_mm", "mm", "lower", "largest displacement of a voxel, likewise"),
    _score("jacobian_min", "ratio", "higher", "least Jacobian determinant of the displacement; 1: no change of volume"),
    _score(
        "smallest_linf",
        "intensity 0..1",
        "higher",
        "largest change of a voxel in the smallest change that made the volume fall, found by an attack of "
        "`linf-minimal`; null of others, and if none was found",
    ),
    _score(
        "smallest_l2",
        "intensity 0..1",
        "higher",
        "root mean square of the smallest change that made the volume fall, over the attacked voxels, found by an "
        "attack of `l2-minimal`; likewise",
    ),
    *_metric_columns(_CHANGED),
    _score("certified_radius", "intensity 0..1", "higher", "L2 norm that randomised smoothing certifies; else null"),
    *_fractions("certified_share", "voxels whose class is certified; the others abstain"),
    *_fractions("certified_dice", "Dice, mean over defined foreground classes; abstaining is a class, never right"),
    *_fractions(
        "certified_dice_bound",
        "lower bound of the Dice under any change within the radius; voxels that abstain count as the worst class",
    ),
    _text(
        "draws",
        "scores of all draws of a network with the defence `smoothing`, JSON text {score: values in rising order}; "
        "a certificate is made of those of the clean volume (`ball` of radius 0); null of other networks",
        "measured",
    ),
    *_metric_columns(_UNDEFINED),
    *_metric_columns(_COUNTED),
    _count("num_windows", "windows of the volume that were attacked"),
    _count("num_forwards", "forward passes of the source's network for the volume, one per draw of a random defence"),
    _count("num_backwards", "backward passes of the source's network for the volume, likewise"),
    ADDED,
    _RUN_ID,
    _FINISHED,
    _measured_column("attack_seconds", _FLOAT, "s", "time to make the volume"),
    _measured_column("score_seconds", _FLOAT, "s", "time to predict and score it, without surface distances"),
    _measured_column("peak_memory_bytes", _INT, "bytes", "peak memory of the device (of the process on a CPU)"),
    _measured_column("device", _TEXT, "", "name of the device"),
    _measured_column("threads", _INT, "count", "CPU threads of the worker"),
    _measured_column("window_batch", _INT, "count", "windows attacked at once"),
    RELEASES,
    CLEAN_NUMBER,
)

CLASS_RECORDS: tuple[Column, ...] = (
    *_KEYS,
    Column("class_index", _INT, "", "", "identity", "number of the class; 0 is background", required=True),
    _identity("class_name", "name of the class"),
    _count("label_voxels", "voxels of the class in the label"),
    _count("pred_voxels", "voxels of the class predicted on the adversarial volume"),
    _count("pred_voxels_clean", "voxels of the class predicted on the clean volume"),
    *_metric_columns(NUMBERS, of_classes=True),
    ADDED,
    _RUN_ID,
    _FINISHED,
)


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Returns the Arrow schema of `RECORDS` or `CLASS_RECORDS`, with the schema version in its metadata."""
    fields = [pa.field(column.name, column.type) for column in columns]
    return pa.schema(fields, metadata={VERSION_FIELD: str(SCHEMA_VERSION).encode()})


CLASSES = "classes"
_OWN = pa.struct([pa.field(column.name, column.type) for column in CLASS_RECORDS if column.name not in COMMIT])
ROWS = arrow_schema(RECORDS).append(pa.field(CLASSES, pa.list_(_OWN)))
"""Columns of a file: those of RECORDS, and the classes of each row."""

CAUTIONS = "; "  # separates the reasons in a `caution`
UNTOLD = "no later run takes it over"  # words in the `caution` of a row that rests on something without identity
OF_GRADIENTS = "gradient"  # a word in each reason that says that an attack could not follow the model


def added_values(text: str | None) -> dict[str, float]:
    """Returns the values in a row's `added_metrics` by name, undefined ones as NaN; UserError for others."""
    values = object_of(text or "{}", ADDED.name)
    if not all(name.isidentifier() and isinstance(value, float | None) for name, value in values.items()):
        raise UserError(f"{ADDED.name}: expected numbers by name, got {text!r:.160}: verify the store")
    return {name: math.nan if value is None else value for name, value in values.items()}


def require_free(name: str) -> None:
    """Refuses the name of another package's metric if a column or a metric of freqbench has it, or none can have it."""
    taken = {column.name for column in (*RECORDS, *CLASS_RECORDS)} | METRICS.keys()
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name.endswith("_clean") or name in taken:
        expected = "expected a name of letters, digits and _ that is no column's and does not end in _clean"
        raise UserError(f"the metric {name}: {expected}: rename its entry point")
