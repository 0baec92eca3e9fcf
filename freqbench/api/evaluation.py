"""Attacks a case from Python, scores the result, certifies scores, and reads the records of a run."""

import math
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from freqbench.analysis import certificates
from freqbench.analysis.certificates import ALPHA, LOWER
from freqbench.api.case import PatientCase, to_case
from freqbench.api.given import arguments, cpu_tensor, plain, require_unit_range
from freqbench.api.model import Model, require_model
from freqbench.api.result import Result
from freqbench.attacks import Attack, attack_class
from freqbench.core import config, names
from freqbench.core.errors import UserError, unknown
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.machine import keep_freed_memory
from freqbench.core.names import AnyPath
from freqbench.core.plugins import kind_of, require_class
from freqbench.core.types import ScoredOn
from freqbench.data import Dataset
from freqbench.engine import memory, rows, scoring
from freqbench.engine.attacking import AttackedVolume
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.exchange.adversarial_volumes import Imported
from freqbench.job import fit
from freqbench.job.attacks import attack_of
from freqbench.job.cells import Cell, Unit
from freqbench.job.grid import COUPLED_WINDOWS, default_grid, learning_cases, surrogates_of
from freqbench.job.schema import DEFAULT_METRICS
from freqbench.metrics import METRICS, metric_of
from freqbench.metrics.volumes import Volume, channels_of, require_same_shape
from freqbench.models import ModelSpec
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.defences.smoothing import Smoothing
from freqbench.results import RECORDS
from freqbench.results.schema import ADDED, added_values

if TYPE_CHECKING:
    import pandas as pd


def attack(
    model: Model,
    case: PatientCase | Sequence[Any],
    name: str | type[Attack],
    *,
    seed: int = 0,
    window_batch: int | None = None,
    surrogates: Sequence[Model] = (),
    **parameters: Any,
) -> Result:
    """Attacks a case, window by window, or with `scope="volume"` as one through the model's sliding window.

    An attack that learns from other cases (`universal`) does so at its first call with a model, on the case's dataset;
    later calls with equal parameters reuse the result.

    Args:
        model: from `load_model`; its gradients are followed.
        case: a Case, or a tuple `(image, label)` or `(image, label, spacing)` of arrays or tensors; see Case. Without a
            label the attack moves the model away from its own clean prediction.
        name: a name in `freqbench.attacks.ATTACKS` (`pgd`, `vafa`, `sa2`, ...), or your own class.
        seed: seed of the draws, for attacks that draw.
        window_batch: windows attacked at once. None: as `window_batch: auto` in a job: 1 on a CPU, as many as its
            memory holds on a GPU, and 4 for attacks that couple the windows of a batch.
        surrogates: models from `load_model` whose gradients an attack such as `bases` follows, on the device of
            `model`; `model` itself then only predicts.
        parameters: parameters of the attack, as in a job file; budgets such as `eps` are on the [0, 1] intensity scale,
            as a number or as `"8/255"`.

    Raises:
        UserError: an unknown attack or parameter, a value out of its range, or a case that does not fit the model.
    """
    model = require_model(model)
    case = to_case(case)
    if not isinstance(surrogates, tuple | list):
        raise UserError(f"surrogates: expected a list of models, got {kind_of(surrogates)}: give [model]")
    surrogates = tuple(map(require_model, surrogates))
    call = arguments("attack", seed=seed, window_batch=window_batch)
    seed = call.seed
    window_batch = call.window_batch
    require_class(name, Attack)
    chosen = attack_class(names.meant_name("attacks", name) if isinstance(name, str) else name)
    parameters = {key: plain(value, f"{chosen.name}.{key}") for key, value in parameters.items()}
    dataset, source = model._fit_case(case)
    if surrogates:
        parameters["surrogates"] = tuple(surrogate.spec.name for surrogate in surrogates)
    made = attack_of(chosen, parameters, dataset, chosen.name)
    volume = memory.reference_case(case._load_in(dataset, source.space), dataset, model.network)
    fitted = [(surrogate._fit_case(case)[1], surrogate) for surrogate in surrogates]
    named = {spec.name: spec for spec, _ in fitted}
    coupled_windows = window_batch or COUPLED_WINDOWS
    cell = replace(
        _cell(model, dataset, source, made),
        seed=seed if made.is_stochastic else None,
        window_batch=coupled_windows if made.couples_batch else None,
        learns_from=learning_cases(dataset, made, [volume.ref]),
        surrogates=surrogates_of(made, source, named),
    )
    worker = _worker(model, window_batch)
    others = {spec.model_id: surrogate.network for spec, surrogate in fitted}
    worker.networks = {**others, source.model_id: model.network}
    attacked, seconds = worker.attack(cell, volume)
    windows = cell.window_batch or worker.window_batch
    measured = {"attack_seconds": seconds, "window_batch": windows, "threads": worker.spec.threads}
    learned = worker.learned_tensor(cell, volume) if made.needs_learned else None
    return Result(
        model=model, case=case, volume=volume, cell=cell, attacked=attacked, measured=measured, learned=learned
    )


def _worker(model: Model, window_batch: int | None) -> Worker:
    """Makes a worker of this process on a model's device, which keeps what attacks learn of the model."""
    threads = torch.get_num_threads()
    spec = WorkerSpec(run_id="", metrics=(), window_batch=window_batch, device=str(model.device), threads=threads)
    worker = Worker(spec)
    worker.learned = model._learned
    return worker


def _cell(model: Model, dataset: Dataset, source: ModelSpec, made: Attack) -> Cell:
    settings: dict[str, Any] = {"precision": model.network.precision, "compile": False}
    return Cell(dataset=dataset, source=source, targets=(source,), attack=made, seed=None, **settings)


class ScoredRecord(dict[str, Any]):
    """Columns of a record by name, documented in `freqbench.results.schema`; None: not requested.

    Values of other packages' metrics stand by their names, NAME and NAME_clean.

    Attributes:
        classes: the columns of a class record, one mapping per class.
    """

    def __init__(self, columns: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(columns, **added_values(columns[ADDED.name]))
        self.classes = tuple({**row, **added_values(row[ADDED.name])} for row in classes)

    def __repr__(self) -> str:
        return self._table().drop(columns="meaning").to_string(index=False)

    def _repr_html_(self) -> str:
        return self._table().to_html(index=False)

    def _table(self) -> "pd.DataFrame":
        import pandas as pd

        scores = [col for col in RECORDS if col.mark == "result" and isinstance(self[col.name], int | float)]
        values = [(col.name, f"{self[col.name]:.6g}", col.unit, col.direction, col.meaning) for col in scores]
        added = [text for text in self["metrics"].split(",") if text not in METRICS]
        for text, metric in zip(added, map(metric_of, added), strict=True):
            of_it = (metric.unit, metric.direction, f"{metric.title} ({text})")
            values += [(name, f"{self[name]:.6g}", *of_it) for name in metric.columns]
        return pd.DataFrame(values, columns=["column", "value", "unit", "better", "meaning"])


def evaluate(
    model: Model,
    case: PatientCase | Sequence[Any],
    result: Result | Volume,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    score_on: str | None = None,
) -> ScoredRecord:
    """Scores an adversarial volume on a model: the attacked one (white-box), or any other (transfer).

    Args:
        model: from `load_model`; its predictions are scored.
        case: the attacked case.
        result: result of `attack`, or a volume from other code, `[C, H, W, D]` in [0, 1] on the case's grid.
        metrics: names in `freqbench.metrics.METRICS`, `dsc`, `hd95`, `nsd`, `calibration`, `ssim`, ..., or of metrics
            that installed packages add.
        score_on: `grid`: predictions are held against labels on the grid that is attacked; `file`: on that of the
            case's file, as in a job with this key. None: `file` for a model whose own pipeline leads back there. Arrays
            have one grid alone.

    The record's `caution` says, too, that the mean clean Dice of the patients that this model was evaluated on is far
    below `expected_dice`, or below 0.5 if none is stated.

    Raises:
        UserError: an unknown metric, a model that the case does not fit, or a volume of another case, of another shape,
            or outside [0, 1]; or an attack that moves the label, or a defence that votes, with `score_on: file`.
    """
    model = require_model(model)
    case = to_case(case)
    given = arguments("evaluate", metrics=metrics, score_on=score_on)
    wanted = given.metrics
    dataset, target = model._fit_case(case)
    if "calibration" in wanted:
        dataset.require_labels("metrics: calibration", "which tell if a confident prediction is right")
    made = result if isinstance(result, Result) else _brought_in(model, case, result)
    if made.volume.ref != case.volume.ref:
        raise UserError(f"expected the attacked case {made.case.name}, got {case.name}: give the attacked one")
    started = time.perf_counter()
    cell = replace(made.cell, scored_on=given.score_on or default_grid(made.cell.attack, [target]))
    if cell.scored_on == ScoredOn.FILE and made.attacked.label is not None:
        raise UserError(
            f"{cell.attack.name}: expected {ScoredOn.GRID.key}, as its labels move there, got file: leave it out"
        )
    seen = made._seen_by(model, cell.scored_on)
    _require_one_grid(made, model, seen.error)
    clean = scoring.score_clean(seen.before, seen.case, cell.dataset, wanted, seen.file)
    error = made._file_error if seen.error is None else seen.error
    scored = scoring.score_target(seen.after, clean, seen.case, made.attacked, cell.dataset, wanted, error)
    volume = made._distances(wanted)
    measured = {
        **made.measured,
        **made.attacked.facts.model_dump(),
        "finished_at": datetime.now(UTC),
        "score_seconds": time.perf_counter() - started,
        "device": str(model.device),
    }
    targets = (seen.target,)
    unit = Unit(cell=replace(cell, targets=targets), ref=made.volume.ref, targets=targets)
    outcome = rows.scored_outcome(unit, made.volume, volume, [scored.scores], [scored.facts], wanted, measured)
    record = outcome.records[0]
    caution = _caution(model, case, seen.target, record)
    return ScoredRecord({**record, "caution": caution}, outcome.class_records[0])


def _require_one_grid(made: Result, model: Model, error: float | None) -> None:
    """Refuses a label that moved on another grid than a model sees; `error`: of resampling, None on the same grid."""
    if made.attacked.label is not None and error is not None:
        raise UserError(
            f"{model.spec.name}: expected a model that sees the grid of {made.model.spec.name}, on which "
            f"{made.cell.attack.name} moved the label, got one with another: give both the same `preprocess`"
        )


def _caution(model: Model, case: PatientCase, target: ModelSpec, record: Mapping[str, Any]) -> str | None:
    """Joins a record's caution and what the clean Dice on a case, and on those before, says against the model."""
    said = record["caution"]
    dice = record["dsc_foreground_clean"]
    if dice is None or math.isnan(dice):
        return said
    ref = case.volume.ref
    patient = ref.patient_id if case.dataset else ref.fingerprint  # arrays have no patient
    model._clean[patient, ref.fingerprint] = dice
    short = fit.shortfall(target.expected_dice, model._clean) if target.is_judged else None
    return "; ".join(filter(None, (said, short))) or None


def _brought_in(model: Model, case: PatientCase, given: Volume) -> Result:
    """Makes a result for a volume from other code."""
    dataset, source = model._fit_case(case)
    volume = case._load_in(dataset, source.space)
    adversarial = channels_of(cpu_tensor(given)).to(torch.float32)
    require_same_shape(tuple(volume.image.shape), tuple(adversarial.shape))
    require_unit_range(adversarial, f"{case.name}: expected a volume", "scale it as the case is")
    imported = Imported(label="given", content=digest([checkpoints.state_sha256({"adversarial": adversarial})]))
    attacked = AttackedVolume(adversarial=adversarial)
    cell = _cell(model, dataset, source, imported)
    return Result(model=model, case=case, volume=volume, cell=cell, attacked=attacked, measured={})


@dataclass(frozen=True, kw_only=True, repr=False)
class Certificate:
    """Scores of a randomised network on one case, which bound its medians under any change of the kind.

    Attributes:
        kind: kind of change.
        sigma: standard deviation of each of its parameters.
        scores: scores of all draws in rising order, by name: `dsc_foreground`, `dsc`, `volume_error_relative`, `dsc_K`
            of class K; with the metric `nsd` also `nsd` and `nsd_K`.
    """

    kind: str
    sigma: float
    scores: Mapping[str, Sequence[float]]

    def curve(self, radii: Sequence[float], score: str = "dsc_foreground", alpha: float = ALPHA) -> "pd.DataFrame":
        """Bounds the median of a score for each norm of the change in `radii`, in the unit of `sigma`; all rows hold
        together but for a chance of alpha.

        Every call spends its own alpha: all rows of m calls, for other scores or cases, hold together but for a chance
        of m alpha. Give each `ALPHA / m` to have one number for all that you claim.

        Raises:
            UserError: an unknown score, or a radius that the draws cannot certify.
        """
        import pandas as pd

        scores = self.scores
        given = arguments("curve", radii=radii, score=score, alpha=alpha)
        if score not in scores:
            raise UserError(unknown("score", score, scores))
        values = scores[score]
        share = given.alpha / len(given.radii)
        ranks = [certificates.require(len(values), self.kind, r, self.sigma, share) for r in given.radii]
        bounds = [certificates.bound(values, k, score in LOWER) for k in ranks]
        return pd.DataFrame({"radius": list(given.radii), "at_most" if score in LOWER else "at_least": bounds})

    def __repr__(self) -> str:
        name, values = next(iter(self.scores.items()))
        median = 100 * values[(len(values) - 1) // 2]
        return f"<Certificate {self.kind}, sigma {self.sigma:g}: {len(values)} draws, median {name} {median:.1f}>"


def certify(
    model: Model,
    case: PatientCase | Sequence[Any],
    kind: str,
    *,
    sigma: float,
    draws: int = 1000,
    metrics: Sequence[str] = ("dsc",),
) -> Certificate:
    """Draws random changes of a case, predicts each once, and scores them: what certificates are made of.

    The statement is about the randomised network, which draws a change before each prediction, and an attacker who does
    not know the draw. A case without a label is scored against the model's prediction without a draw.

    Args:
        model: without a defence; the case is seen in its space.
        kind: `voxels`, `bias_field`, `gain_offset`, `dct_bands`, `fourier_shift` or `voxel_shift`
            (`freqbench.ops.changes`). The label stays where it is under a shift.
        sigma: standard deviation of each parameter of the change.
        draws: number of predictions.
        metrics: `dsc`, and `nsd` for the normalised surface Dice too, which takes longer than a prediction of a small
            network.

    Raises:
        UserError: an unknown kind or metric, a sigma of 0, or a model that has a defence already.
    """
    model = require_model(model)
    case = to_case(case)
    spec = model.spec
    if spec.defence is not None:
        raise UserError(f"{spec.name}: expected a model without a defence, got {spec.defence.name}")
    if "dsc" not in (metrics := arguments("certify", metrics=metrics).metrics) or not {*metrics} <= {"dsc", "nsd"}:
        raise UserError(f"metrics: expected dsc, or dsc and nsd, got {', '.join(metrics)}")
    content = {"name": "smoothing", "kind": kind, "sigma": sigma, "samples": draws}
    defence = config.validate(content, Smoothing, "certify")
    dataset, source = model._fit_case(case)
    volume = memory.reference_case(case._load_in(dataset, source.space), dataset, model.network)
    network = copy(model.network)
    network.defence = defence
    keep_freed_memory()
    tolerances = dataset.classes.tolerances_mm if "nsd" in metrics else None
    prediction, _ = memory.segment(network, volume, memory.INFERENCE_WINDOWS, tolerances=tolerances)
    return Certificate(kind=kind, sigma=defence.sigma, scores=prediction.draws or {})


def load_results(out: AnyPath, *, columns: Sequence[str] | None = None, former: bool = False) -> "pd.DataFrame":
    """Reads the records of a run's store as a pandas DataFrame, one row per cell, case and target model.

    These are the rows that `freqbench report` shows: those of the job of now, made by the code and data of now. Of
    rows with the same key it keeps the valid one: ok before failed, then the latest. `freqbench.results.schema.RECORDS`
    gives the unit and meaning of each column; metrics of other packages have columns NAME and NAME_clean. Texts come as
    categories.

    Args:
        out: folder or URI (`s3://`, `gs://`, ...) that `freqbench run` wrote.
        columns: names of the columns that are read, in this order; None: all.
        former: return the rows of former jobs, code and data too, and a column `former` that is True for them.

    Raises:
        UserError: no results there, files that cannot be read, or no column of a name.
    """
    from freqbench.analysis.tables import job_records
    from freqbench.results import Store

    root = storage.filled_in(names.path_of(out, "load_results"), "load_results")
    return job_records(Store(root), columns, former)
