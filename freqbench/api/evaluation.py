"""Scores an attacked case from Python, and reads the records of a run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from freqbench.api.case import AnyPath, Case, as_case, cpu_tensor, path_of
from freqbench.api.model import Model, as_model, cell_of
from freqbench.api.result import Result
from freqbench.core import config, storage
from freqbench.core.config import Strict
from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.engine import rows, scoring
from freqbench.engine.attacking import AttackedVolume
from freqbench.exchange.adversarial_volumes import Imported
from freqbench.job.cells import Unit
from freqbench.job.schema import DEFAULT_METRICS, Metric
from freqbench.metrics.volumes import Volume, channels_of, require_same_shape
from freqbench.models.checkpoints import files as checkpoints
from freqbench.results import RECORDS

if TYPE_CHECKING:
    import pandas as pd


class Record(dict[str, Any]):
    """Columns of a record by name, documented in `freqbench.results.schema`; None: not requested.

    Attributes:
        classes: the columns of a class record, one mapping per class.
    """

    def __init__(self, columns: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(columns)
        self.classes = tuple(classes)

    def __repr__(self) -> str:
        return self._table().drop(columns="meaning").to_string(index=False)

    def _repr_html_(self) -> str:
        return self._table().to_html(index=False)

    def _table(self) -> "pd.DataFrame":
        """Makes a table of the results alone, one per row."""
        import pandas as pd

        scores = [col for col in RECORDS if col.mark == "result" and isinstance(self[col.name], int | float)]
        values = [(col.name, f"{self[col.name]:.6g}", col.unit, col.direction, col.meaning) for col in scores]
        return pd.DataFrame(values, columns=["column", "value", "unit", "better", "meaning"])


class _Call(Strict):
    """Arguments of `evaluate` that a job file has too."""

    metrics: tuple[Metric, ...]


def evaluate(
    model: Model,
    case: Case | Sequence[Any],
    result: Result | Volume,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> Record:
    """Scores an adversarial volume on a model: the attacked one (white-box), or any other (transfer).

    Args:
        model: from `load_model`; its predictions are scored.
        case: the attacked case.
        result: result of `attack`, or a volume from other code, `[C, H, W, D]` in [0, 1] on the case's grid.
        metrics: names in `freqbench.metrics.METRICS`: `dsc`, `hd95`, `nsd`, `calibration`, `ssim`, ...

    Raises:
        UserError: an unknown metric, a model that the case does not fit, or a volume of another case, of another shape,
            or outside [0, 1].
    """
    model, case = as_model(model), as_case(case)
    if isinstance(metrics, str):
        raise UserError(f"metrics: expected a sequence of names, got {metrics!r}: give [{metrics!r}]")
    metrics = config.validate({"metrics": metrics}, _Call, "evaluate").metrics
    model._fitted(case)
    made = result if isinstance(result, Result) else _brought_in(model, case, result)
    if made.volume.ref != case.volume.ref:
        raise UserError(f"expected the attacked case {made.case.name}, got {case.name}: give the attacked one")
    started = time.perf_counter()
    wanted, cell = tuple(metrics), made.cell
    seen = made._seen_by(model)
    if made.attacked.label is not None and seen.error is not None:
        raise UserError(
            f"{model.spec.name}: expected a model that sees the grid of {made.model.spec.name}, on which "
            f"{cell.attack.name} moved the label, got one with another: give both the same `preprocess`"
        )
    clean = scoring.score_clean(seen.before, seen.case, cell.dataset, wanted)
    scored = scoring.score_target(seen.after, clean, made.attacked.shown(seen.case), cell.dataset, wanted, seen.error)
    volume = made._distances(wanted)
    measured = {
        **made.measured,
        **made.attacked.told,
        "finished_at": datetime.now(UTC),
        "score_seconds": time.perf_counter() - started,
        "device": str(model.device),
    }
    unit = Unit(cell=replace(cell, targets=(seen.target,)), ref=made.volume.ref, targets=(seen.target,))
    outcome = rows.scored(unit, made.volume, volume, [scored.scores], [scored.facts], wanted, measured)
    return Record(outcome.records[0], outcome.class_records[0])


def _brought_in(model: Model, case: Case, given: Volume) -> Result:
    """Makes a result for a volume from other code."""
    dataset, source = model._fitted(case)
    volume = case._in(dataset, source.space)
    adversarial = channels_of(cpu_tensor(given)).to(torch.float32)
    require_same_shape(tuple(volume.image.shape), tuple(adversarial.shape))
    low, high = map(float, adversarial.aminmax())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{case.name}: expected a volume in [0, 1], got [{low:.4g}, {high:.4g}]: scale it as the case is"
        )
    imported = Imported(label="given", content=digest([checkpoints.state_sha256({"adversarial": adversarial})]))
    attacked = AttackedVolume(adversarial=adversarial, num_windows=None, num_forwards=None, num_backwards=None)
    cell = cell_of(model, dataset, source, imported, None)
    return Result(model=model, case=case, volume=volume, cell=cell, attacked=attacked, measured={})


def load_results(out: AnyPath) -> "pd.DataFrame":
    """Reads the records of a run's store as a pandas DataFrame, one row per cell, case and target model.

    Of duplicate rows it keeps the valid one: ok before failed, then the latest. `freqbench.results.schema.RECORDS`
    gives the unit and meaning of each column.

    Args:
        out: folder or URI (`s3://`, `gs://`, ...) that `freqbench run` wrote.

    Raises:
        UserError: no results there, or files that cannot be read.
    """
    from freqbench.analysis.frames import found_records, plain
    from freqbench.results import Store

    root = storage.filled_in(path_of(out, "load_results"), "load_results")
    return plain(found_records([Store(root)], None)[0])
