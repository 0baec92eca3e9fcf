"""Scores an adversarial volume and predictions of one case, without files, processes or a grid."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench import metrics as measures
from freqbench.core.measures import MEANS, METRIC_OF, METRICS, NUMBERS, UNDEFINED
from freqbench.core.types import Case, FileLabel, NativeCase, Spacing, triple
from freqbench.data import Dataset
from freqbench.engine.attacking import AttackedVolume
from freqbench.metrics import LpipsUnavailable, Scores
from freqbench.models import ModelSpec, VolumePrediction, attack_windows
from freqbench.ops.classes import Classes, LabelMaps
from freqbench.ops.voxels import without_ignored
from freqbench.results import CLASS_RECORDS, RECORDS
from freqbench.results.schema import CAUTIONS

ALWAYS = ("linf", "l2", "energy", "seam", "voxel_success")

Vector = npt.NDArray[np.float64]


def unavailable(metrics: Sequence[str]) -> dict[str, str]:
    """Returns the metrics that this machine cannot compute, with the reason; fetches weights if they are needed."""
    if "lpips" in metrics:
        try:
            measures.prepare_lpips()
        except LpipsUnavailable as error:
            return {"lpips": str(error)}
    return {}


def prepare(
    metrics: Sequence[str], device: torch.device, unavailable: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Loads the packages and networks that `score_volume` needs on the `device` for `metrics`, but those `unavailable`,
    by scoring a few voxels, as that takes seconds."""
    few = torch.zeros(1, 8, 8, 8)
    body = measures.body_mask(few)
    measures.image_scores(few, few, body)
    if "lpips" in metrics and "lpips" not in unavailable:
        measures.lpips_scores(few.to(device), few.to(device), body)


def score_volume(
    case: Case,
    adversarial: Tensor,
    metrics: Sequence[str],
    source: ModelSpec,
    device: torch.device,
    unavailable: Mapping[str, str] = MappingProxyType({}),
) -> Scores:
    """Measures the distance of an adversarial volume from the clean one, in the columns of `metrics` and of ALWAYS.

    Args:
        case: the clean volume `[C, H, W, D]` in [0, 1].
        adversarial: the attacked volume of the same shape.
        metrics: the wanted metrics.
        source: the attacked network, on the tiling by whose windows seams are sought.
        device: where large sums and the network of LPIPS are computed.
        unavailable: the reason by metric that cannot be computed here; its values are NaN with that reason.
    """
    image = case.image
    body = measures.body_mask(image)
    clean = image.to(device)
    attacked = adversarial.to(device)
    shape = triple(clean.shape[1:])
    seams = measures.seam_scores(clean, attacked, attack_windows(shape, source.roi_of(case.ref, shape)))
    parts = [measures.image_scores(image, adversarial, body), measures.energy_scores(clean, attacked), seams]
    if "lpips" in metrics and "lpips" in unavailable:
        columns = METRICS["lpips"].columns
        causes = dict.fromkeys(columns, unavailable["lpips"])
        parts.append(Scores(values=dict.fromkeys(columns, math.nan), reasons=causes))
    elif "lpips" in metrics:
        parts.append(measures.lpips_scores(clean, attacked, body))
    wanted = {column for column, metric in METRIC_OF.items() if metric in (*metrics, *ALWAYS)}
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for part in parts:
        values |= {column: value for column, value in part.values.items() if column in wanted}
        reasons |= {column: reason for column, reason in part.reasons.items() if column in wanted}
    return Scores(values=values, reasons=reasons)


@dataclass(frozen=True, kw_only=True)
class PredictionScores:
    """Scores of a prediction: columns of RECORDS, of CLASS_RECORDS (a mapping a class), and added metrics by name."""

    record: Mapping[str, float | int | str]
    classes: tuple[Mapping[str, float | int], ...]


def label_maps(pred: Tensor, case: Case | NativeCase | FileLabel, dataset: Dataset) -> LabelMaps:
    """Pairs `pred` `[H, W, D]`, predicted for a case of a dataset, with its label, on the grid of both."""
    return LabelMaps(pred=pred, label=case.label[0], classes=dataset.classes, spacing=case.spacing)


def score_prediction(
    maps: LabelMaps, metrics: Sequence[str], confidence: Tensor | None = None
) -> list[PredictionScores]:
    """Scores the prediction of `maps` in the requested `metrics`; `calibration` needs the `confidence` of a
    VolumePrediction."""
    scores = []
    if "dsc" in metrics:
        scores.append(_score_each(lambda each: score_overlap(each.pred, each.label, len(each.classes)), maps))
    if shapes_of(metrics):
        scores.append(score_shapes(maps, metrics))
    if "calibration" in metrics and confidence is not None:
        scores.append(score_calibration(confidence, maps))
    return scores


def _score_each(score: Callable[[LabelMaps], PredictionScores], maps: LabelMaps) -> PredictionScores:
    """Scores maps of exclusive classes; of regions, each against all else, the background being voxels in none."""
    regions = [*map(score, maps.each())]
    if not maps.classes.overlap:
        return regions[0]
    rows = [dict(region.classes[1]) for region in regions]
    for name in rows[0].keys() - _OF_BACKGROUND:
        rows[0][name] = math.nan
    record: dict[str, float | int | str] = {}
    for name in regions[0].record:
        column, first = MEANS.get(name) or UNDEFINED.get(name) or ("", 1)
        holders: Sequence[Mapping[str, Any]] = rows if column else [region.record for region in regions]
        values = np.array([holder[column or name] for holder in holders[first:]], float)
        if name in UNDEFINED:
            record[name] = measures.undefined_classes(values)
        else:
            record[name] = int(values.sum()) if name in _COUNTS else measures.class_mean(values)
    return PredictionScores(record=record, classes=tuple(rows))


@dataclass(frozen=True, kw_only=True)
class CleanScores:
    """A prediction of a clean volume and its scores as `_clean` columns; it labels under `reference: prediction`."""

    pred: Tensor  # uint8 `[H, W, D]` on the grid that is attacked
    label: Tensor  # uint8 `[1, H, W, D]` there
    judged: Tensor  # the prediction on the grid that is scored
    truth: Case | FileLabel  # what it is held against
    scores: tuple[PredictionScores, ...]
    certified: Mapping[str, float | int | str]


def score_clean(
    prediction: VolumePrediction, case: Case, dataset: Dataset, metrics: Sequence[str], file: FileLabel | None = None
) -> CleanScores:
    """Scores a clean volume's prediction in `metrics`, the same for every attack on it; against the label of the `case`
    of the dataset, or on the grid of `file` if there is one."""
    scored = prediction.scored
    truth = file or case
    maps = label_maps(scored.labels, truth, dataset)
    certificate = PredictionScores(record=score_certificate(prediction, maps.label, len(maps.classes)), classes=())
    *scores, certified = map(clean_columns, (*score_prediction(maps, metrics, scored.confidence), certificate))
    shown = {"pred": prediction.labels, "label": case.label, "judged": maps.pred}
    return CleanScores(**shown, truth=truth, scores=tuple(scores), certified=certified.record)


def fit_facts(clean: CleanScores, dataset: Dataset) -> dict[str, Any]:
    """Returns what a clean prediction of a `dataset` says of a network's fit: its foreground Dice, and the classes of
    both maps."""
    maps = label_maps(clean.judged, clean.truth, dataset)
    classes = maps.classes
    (overlap,) = score_prediction(maps, ["dsc"])
    return {
        "dsc_foreground_clean": float(overlap.record["dsc_foreground"]),
        "label_classes": classes.present(maps.label),
        "pred_classes": classes.present(maps.pred),
    }


@dataclass(frozen=True, kw_only=True)
class TargetScores:
    """A target's results on an attacked volume: label maps, scores of both predictions, more columns of a record."""

    maps: LabelMaps
    scores: tuple[PredictionScores, ...]
    facts: Mapping[str, float | int | str | None]


def score_target(
    prediction: VolumePrediction,
    clean: CleanScores,
    case: Case,
    attacked: AttackedVolume,
    dataset: Dataset,
    metrics: Sequence[str],
    resampling_error: float | None,
) -> TargetScores:
    """Scores a prediction of an attacked volume against the label of its case, or file if `clean` is scored there.

    Args:
        prediction: the target's prediction of the volume.
        clean: the target's scores on the clean volume.
        case: the clean case as the target sees it.
        attacked: the volume with its label, which some attacks move.
        dataset: the dataset of the case.
        metrics: the wanted metrics.
        resampling_error: the largest error of bringing the volume to the target's grid, in [0, 1]; None: it is there.
    """
    in_file = isinstance(clean.truth, FileLabel)
    scored = prediction.scored
    maps = label_maps(scored.labels, clean.truth if in_file else attacked.relabel(case), dataset)
    cautions = case.off_scale if in_file else (*case.off_scale, *case.lost)
    facts = {
        "voxel_success": measures.voxel_success(clean.judged, maps.pred, maps.label),
        "resampling_error": resampling_error,
        "caution": CAUTIONS.join(cautions) or None,
        **score_certificate(prediction, maps.label, len(maps.classes)),
        **clean.certified,
    }
    scores = (*clean.scores, *score_prediction(maps, metrics, scored.confidence))
    return TargetScores(maps=maps, scores=scores, facts=facts)


def score_overlap(pred: Tensor, label: Tensor, num_classes: int) -> PredictionScores:
    """Computes Dice and voxel counts of `num_classes` classes in the map `pred` `[H, W, D]` against the true one,
    `label`, of the same shape."""
    counts = measures.confusion(pred, label, num_classes)
    voxels = {"label_voxels": counts.sum(dim=1).cpu().numpy(), "pred_voxels": counts.sum(dim=0).cpu().numpy()}
    columns = {**voxels, "dsc": measures.dice_from_confusion(counts)}
    missed = measures.missed_classes(counts)
    hallucinated = measures.hallucinated_classes(counts)
    return _scores(["dsc"], columns, missed_classes=missed, hallucinated_classes=hallucinated)


def score_shapes(maps: LabelMaps, metrics: Sequence[str]) -> PredictionScores:
    """Scores label maps in `shapes_of(metrics)`, at least one."""

    def shapes(maps: LabelMaps) -> PredictionScores:
        num_classes = len(maps.classes)
        given = {**vars(maps), "num_classes": num_classes, "tolerances": maps.classes.tolerances_mm}
        columns: dict[str, Vector] = {}
        others: dict[str, float] = {}
        for metric in shapes_of(metrics):
            columns |= measures.class_values(metric, **given)
        if "hd95_mm" in columns:
            voxels = np.bincount(maps.label.numpy().ravel(), minlength=num_classes)
            in_label = voxels[:num_classes] > 0
            shape = maps.label.shape
            millimetres = columns["hd95_mm"]
            others["hd95_penalised"] = measures.hd95_penalised(millimetres, in_label, shape, maps.spacing)
        return _scores(shapes_of(metrics), columns, **others)

    return _score_each(shapes, maps)


def score_calibration(confidence: Tensor, maps: LabelMaps) -> PredictionScores:
    """Scores the calibration of the confidence `[H, W, D]` in the predicted label map of `maps`."""
    scores = measures.calibration(confidence, maps.pred, maps.label, len(maps.classes), maps.classes.overlap)
    columns = {"ece": scores.ece_by_class, "wrong_confidence": scores.wrong_confidence_by_class}
    return _scores(["calibration"], columns, ece=scores.ece, wrong_confidence=scores.wrong_confidence)


def _scores(metrics: Sequence[str], columns: Mapping[str, Vector], **others: float) -> PredictionScores:
    """Makes the scores of metrics from their class columns, and from the `others` that do not follow from these."""
    record: dict[str, float | int | str] = {}
    for metric in metrics:
        for number in measures.metric_of(metric).numbers:
            if number.mean:
                column, first = number.mean
                record[number.name] = measures.class_mean(columns[column][first:])
            if number.undefined:
                column, first = number.undefined
                record[number.name] = measures.undefined_classes(columns[column][first:])
    listed = [values.tolist() for values in columns.values()]
    classes = tuple(dict(zip(columns, row, strict=True)) for row in zip(*listed, strict=True))
    return PredictionScores(record=record | others, classes=classes)


_COLUMNS = {column.name for column in (*RECORDS, *CLASS_RECORDS)}
_OF_BACKGROUND = {"label_voxels", "pred_voxels"} | {
    each.name for each in NUMBERS if METRICS[each.metric].has_background
}
_COUNTS = {each.name for each in NUMBERS if each.is_count}
SHAPES = frozenset(name for name, metric in METRICS.items() if metric.function)
"""Metrics that need only the label maps, and are slow enough to compute apart from the device."""


def shapes_of(metrics: Sequence[str]) -> list[str]:
    """Selects the metrics that are computed apart from the device: SHAPES, and those of other packages."""
    return [metric for metric in metrics if metric in SHAPES or metric not in METRICS]


_OF_A_DRAW = ("dsc_foreground", "dsc", "volume_error_relative", "nsd")  # the leading score first


def score_draw(
    label: Tensor,
    pred: Tensor,
    spacing: Spacing = (1.0, 1.0, 1.0),
    tolerances: Sequence[float] | None = None,
    has_regions: bool = False,
) -> dict[str, float]:
    """Returns the scores of one draw of a randomised network that are certified, with `dsc_K` of each class K in the
    label, and with tolerances `nsd` and `nsd_K`.

    Args:
        label: the true label map `[H, W, D]`.
        pred: the drawn one.
        spacing: sides of a voxel in mm.
        tolerances: mm for each foreground class; None: without `nsd`.
        has_regions: the numbers of both maps are codes of regions, and K is a region.
    """
    last = max(int(without_ignored(label).max()), int(pred.max()))
    last = last.bit_length() if has_regions else last
    last = last if tolerances is None else len(tolerances)
    classes = Classes(names=("",) * (1 + last), overlap=has_regions, tolerances_mm=tuple(tolerances or ()))
    maps = LabelMaps(pred=pred.cpu(), label=label, classes=classes, spacing=spacing)
    parts = score_prediction(maps, ("dsc", "volume", *(() if tolerances is None else ("nsd",))))
    found: dict[str, float | int | str] = {}
    for part in parts:
        found |= part.record
    scores = {name: float(found[name]) for name in _OF_A_DRAW if name in found}
    for part in parts:
        for k, row in enumerate(part.classes):
            for key in row.keys() & {"dsc", "nsd"}:
                scores[f"{key}_{k}"] = row[key]
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def score_certificate(prediction: VolumePrediction, label: Tensor, num_classes: int) -> dict[str, float | int | str]:
    """Returns the columns that the defence of a prediction fills against the label map `[H, W, D]` of `num_classes`
    classes, if any."""
    if prediction.suspicion is not None:
        return {"suspicion": prediction.suspicion}
    if prediction.draws is not None:
        rounded: dict[str, list[float]] = {}
        for name, values in prediction.draws.items():
            rounded[name] = [round(value, 6) for value in values]
        return {"draws": json.dumps(rounded)}
    if prediction.certified is None:
        return {}
    scores = measures.certified_scores(prediction.labels, prediction.certified, label, num_classes)
    return {"certified_radius": prediction.radius, **scores}


def clean_columns(scores: PredictionScores) -> PredictionScores:
    """Returns the scores of the clean volume's prediction as the `_clean` columns of the tables."""
    record, *classes = map(_clean_row, (scores.record, *scores.classes))
    return PredictionScores(record=record, classes=tuple(classes))


def _clean_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a row by their `_clean` columns, if tables have these or do not know the metric at all."""
    clean: dict[str, Any] = {}
    for name, value in row.items():
        column = f"{name}_clean"
        if column in _COLUMNS or name not in _COLUMNS:  # of other packages' metrics
            clean[column] = value
    return clean
