"""Attacks one case and scores one case, without files, processes or a grid."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.attacks import Attack
from freqbench.core.identity import window_generator
from freqbench.core.types import Case, NativeCase, Shape, Spacing
from freqbench.data import Dataset
from freqbench.metrics import (
    METRICS,
    Scores,
    assd,
    betti_errors,
    body_mask,
    calibration,
    certified_scores,
    class_mean,
    component_f1,
    confusion,
    dice_from_confusion,
    energy_scores,
    foreground_mean,
    hallucinated_classes,
    hd95_penalised,
    image_scores,
    lpips_scores,
    missed_classes,
    nsd,
    seam_scores,
    surface_scores,
    undefined_classes,
    volume_errors,
)
from freqbench.models import Prediction, SegmentationModel, SlidingWindowModel, attack_windows
from freqbench.results import CLASS_RECORDS, RECORDS, Column

ALWAYS = ("linf", "l2", "energy", "seam", "voxel_success")
INTENSITY_BUDGETS = ("linf", "gaussian")
PASSES = ("num_windows", "num_forwards", "num_backwards")  # of AttackedVolume, and columns of RECORDS

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AttackedVolume:
    """An adversarial volume and what it took; numbers are None where the volume was made elsewhere."""

    adversarial: Tensor  # float32 [C, H, W, D] in [0, 1], on the CPU
    num_windows: int | None  # that were attacked, or by which a volume attacked as one was predicted
    num_forwards: int | None  # passes of the network over all windows; each draw of a random defence is one
    num_backwards: int | None
    losses: tuple[Tensor, ...] = ()  # as of an AttackResult, of each call of the attack in turn
    label: Tensor | None = None  # uint8 [1, H, W, D], the case's as the volume shows it; None: where the case has it

    def shown(self, case: Case) -> Case:
        """The case with the label that a prediction of the volume is held against."""
        return case if self.label is None else replace(case, label=self.label)


def attack_case(
    attack: Attack,
    model: SegmentationModel,
    case: Case,
    seed: int | None,
    window_batch: int,
    reference: Case | None = None,
) -> AttackedVolume:
    """Attack a volume window by window, or as one through the model's sliding window (`scope: volume`).

    Every window starts from the clean volume and has a generator of its own (from the seed, the case's content and the
    window's number), so the result does not depend on `window_batch` beyond rounding, for attacks that do not couple
    the samples of a batch. Where the last windows overlap their neighbours, the later one overwrites. A volume that is
    attacked as one has the generator of its first window; where it is a single window, the two are the same.

    The model is on the device to compute on, `seed` is None where the attack draws nothing, and `reference` is the
    other case of attacks with `needs_reference`: it is stretched to the volume's shape.
    """
    attack = attack.on_grid(case.spacing)
    device = next(model.parameters()).device
    image, label = case.image.to(device), case.label.to(device)
    shape = tuple(image.shape[1:])
    windows = attack_windows((shape[0], shape[1], shape[2]), model.roi)
    generators = partial(window_generator, seed or 0, case.ref.fingerprint)
    if attack.attacks_volume and len(windows) > 1:
        whole = SlidingWindowModel(model, window_batch)
        result = attack(whole, image[None], label[None], generator=generators(0))
        return AttackedVolume(
            adversarial=result.adversarial[0].cpu(),
            num_windows=len(whole.windows(image[None])),
            num_forwards=whole.num_forwards,
            num_backwards=whole.num_backwards,
            losses=(result.losses.cpu(),),
            label=result.labels[0].cpu() if attack.moves_labels else None,
        )
    other = None
    if reference is not None:
        other = F.interpolate(reference.image[None].to(device), size=shape, mode="trilinear", align_corners=True)[0]
    adversarial, moved = image.clone(), label.clone()
    num_forwards = num_backwards = 0
    losses = []
    for first in range(0, len(windows), window_batch):
        batch = windows[first : first + window_batch]
        result = attack(
            model,
            _cut(image, batch),
            _cut(label, batch),
            generator=[generators(first + i) for i in range(len(batch))],
            reference=None if other is None else _cut(other, batch),
        )
        for (h, w, d), window, shown in zip(batch, result.adversarial, result.labels, strict=True):
            adversarial[:, h, w, d], moved[:, h, w, d] = window, shown
        num_forwards += model.passes * sum(result.forwards)
        num_backwards += model.passes * sum(result.backwards)
        losses.append(result.losses)
    return AttackedVolume(
        adversarial=adversarial.cpu(),
        num_windows=len(windows),
        num_forwards=num_forwards,
        num_backwards=num_backwards,
        losses=tuple(each.cpu() for each in losses),
        label=moved.cpu() if attack.moves_labels else None,
    )


def _cut(volume: Tensor, windows: Sequence[tuple[slice, slice, slice]]) -> Tensor:
    return torch.stack([volume[:, h, w, d] for h, w, d in windows])


def score_volume(
    case: Case,
    adversarial: Tensor,
    metrics: Sequence[str],
    roi: Shape,
    device: torch.device,
    unavailable: Mapping[str, str] = MappingProxyType({}),
) -> Scores:
    """How far an adversarial volume is from the clean one, in the columns of `metrics` and of ALWAYS.

    Args:
        roi: voxels of the source model's window, whose tiling the seams are sought on, whatever the attack's scope.
        device: where LPIPS, energy and seams are computed.
        unavailable: metrics that this machine cannot compute, with the reason.
    """
    body = body_mask(case.image)
    clean, attacked = case.image.to(device), adversarial.to(device)
    height, width, depth = case.image.shape[1:]
    seams = seam_scores(clean, attacked, attack_windows((height, width, depth), roi))
    parts = [image_scores(case.image, adversarial, body), energy_scores(clean, attacked), seams]
    if "lpips" in metrics and "lpips" in unavailable:
        columns = METRICS["lpips"].columns
        reasons = dict.fromkeys(columns, unavailable["lpips"])
        parts.append(Scores(values=dict.fromkeys(columns, math.nan), reasons=reasons))
    elif "lpips" in metrics:
        parts.append(lpips_scores(clean, attacked, body))
    wanted = {column for metric in (*metrics, *ALWAYS) for column in METRICS[metric].columns}
    return Scores(
        values={column: value for part in parts for column, value in part.values.items() if column in wanted},
        reasons={column: reason for part in parts for column, reason in part.reasons.items() if column in wanted},
    )


@dataclass(frozen=True, kw_only=True)
class PredictionScores:
    """Scores of a prediction: columns of RECORDS, and of CLASS_RECORDS with one mapping a class."""

    record: Mapping[str, float | int]
    classes: tuple[Mapping[str, float | int], ...]


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    """A predicted and a true label map, and what it takes to compare them: all of it can be sent to another process."""

    pred: Tensor  # uint8 [H, W, D]
    label: Tensor  # likewise
    num_classes: int
    spacing: Spacing  # millimetres a voxel
    tolerances: tuple[float, ...]  # millimetres, of each foreground class


def label_maps(pred: Tensor, case: Case | NativeCase, dataset: Dataset) -> LabelMaps:
    """A prediction `[H, W, D]` for a case of a dataset beside its label."""
    return LabelMaps(
        pred=pred,
        label=case.label[0],
        num_classes=dataset.num_classes,
        spacing=case.spacing,
        tolerances=dataset.tolerances_mm,
    )


def score_prediction(
    maps: LabelMaps, metrics: Sequence[str], confidence: Tensor | None = None
) -> list[PredictionScores]:
    """Scores of a prediction as far as `metrics` ask for them; `confidence` as of a Prediction, for `calibration`."""
    scores = [score_overlap(maps.pred, maps.label, maps.num_classes)] if "dsc" in metrics else []
    if not SHAPES.isdisjoint(metrics):
        scores.append(score_shapes(maps, metrics))
    if "calibration" in metrics and confidence is not None:
        scores.append(score_calibration(confidence, maps.pred, maps.label, maps.num_classes))
    return scores


def score_overlap(pred: Tensor, label: Tensor, num_classes: int) -> PredictionScores:
    """Dice and voxel counts of a predicted label map `[H, W, D]` against the true one."""
    counts = confusion(pred, label, num_classes)
    dice = dice_from_confusion(counts)
    record = {
        "dsc": class_mean(dice),
        "dsc_foreground": foreground_mean(dice),
        "missed_classes": missed_classes(counts),
        "hallucinated_classes": hallucinated_classes(counts),
    }
    voxels = {"label_voxels": counts.sum(dim=1), "pred_voxels": counts.sum(dim=0)}
    return PredictionScores(record=record, classes=_by_class({**voxels, "dsc": dice}))


def score_surfaces(pred: Tensor, label: Tensor, num_classes: int, spacing: Sequence[float]) -> PredictionScores:
    """Surface distances of a predicted label map `[H, W, D]` from the true one: a function of the masks alone."""
    surfaces = surface_scores(pred, label, num_classes, spacing)
    in_label = np.bincount(label.numpy().ravel(), minlength=num_classes) > 0
    return PredictionScores(
        record={
            "hd95": class_mean(surfaces["hd95"]),
            "hd95_mm": foreground_mean(surfaces["hd95_mm"]),
            "hd95_medpy_mm": foreground_mean(surfaces["hd95_medpy_mm"]),
            "hd95_penalised": hd95_penalised(surfaces["hd95_mm"], in_label, label.shape, spacing),
            "hd95_undefined_classes": undefined_classes(surfaces["hd95"]),
        },
        classes=_by_class(surfaces),
    )


def score_shapes(maps: LabelMaps, metrics: Sequence[str]) -> PredictionScores:
    """What those of `metrics` that are of SHAPES say, at least one: a function of the label maps alone."""
    parts = []
    if "hd95" in metrics:
        parts.append(score_surfaces(maps.pred, maps.label, maps.num_classes, maps.spacing))
    for metric, measure in _BY_CLASS.items():
        if metric in metrics:
            columns = measure(maps)
            means = {name: foreground_mean(values) for name, values in columns.items() if name in _RECORD_COLUMNS}
            first = next(iter(columns.values()))
            means[f"{metric}_undefined_classes"] = undefined_classes(first[1:])
            parts.append(PredictionScores(record=means, classes=_by_class(columns)))
    return PredictionScores(
        record={name: value for part in parts for name, value in part.record.items()},
        classes=tuple(
            {name: value for row in rows for name, value in row.items()}
            for rows in zip(*(part.classes for part in parts), strict=True)
        ),
    )


def score_calibration(confidence: Tensor, pred: Tensor, label: Tensor, num_classes: int) -> PredictionScores:
    """Whether the confidence `[H, W, D]` in a predicted label map can be believed."""
    found = calibration(confidence, pred, label, num_classes)
    record = {
        "ece": found.ece,
        "ece_foreground": foreground_mean(found.ece_by_class),
        "wrong_confidence": found.wrong_confidence,
        "calibration_undefined_classes": undefined_classes(found.ece_by_class[1:]),
    }
    columns = {"ece": found.ece_by_class, "wrong_confidence": found.wrong_confidence_by_class}
    return PredictionScores(record=record, classes=_by_class(columns))


def _nsd(maps: LabelMaps) -> dict[str, Vector]:
    found = nsd(maps.pred, maps.label, maps.num_classes, maps.tolerances, maps.spacing)
    return {"nsd": found, "nsd_tolerance_mm": np.array([math.nan, *maps.tolerances])}


_BY_CLASS: Mapping[str, Callable[[LabelMaps], Mapping[str, Vector]]] = {
    "nsd": _nsd,
    "assd": lambda maps: {"assd_mm": assd(maps.pred, maps.label, maps.num_classes, maps.spacing)},
    "volume": lambda maps: volume_errors(confusion(maps.pred, maps.label, maps.num_classes), maps.spacing),
    "components": lambda maps: {"component_f1": component_f1(maps.pred, maps.label, maps.num_classes)},
    "topology": lambda maps: betti_errors(maps.pred, maps.label, maps.num_classes),
}
"""Columns of each metric, a value a class; records hold their means over foreground classes."""
SHAPES = frozenset({"hd95", *_BY_CLASS})
"""Metrics that need the label maps alone and take long enough to be computed beside the device."""
_RECORD_COLUMNS = frozenset(column.name for column in RECORDS)


def score_certificate(prediction: Prediction, label: Tensor, num_classes: int) -> dict[str, float | int]:
    """The `certified_` columns of a prediction, against the true label map `[H, W, D]`; none without a certificate."""
    if prediction.certified is None:
        return {}
    scores = certified_scores(prediction.labels, prediction.certified, label, num_classes)
    return {"certified_radius": prediction.radius, **scores}


def as_clean(scores: PredictionScores) -> PredictionScores:
    """The scores of the clean volume's prediction as the `_clean` columns that the tables have."""

    def suffixed(values: Mapping[str, float | int], columns: Sequence[Column]) -> dict[str, float | int]:
        known = {column.name for column in columns}
        return {f"{name}_clean": value for name, value in values.items() if f"{name}_clean" in known}

    classes = tuple(suffixed(row, CLASS_RECORDS) for row in scores.classes)
    return PredictionScores(record=suffixed(scores.record, RECORDS), classes=classes)


def _by_class(columns: Mapping[str, Tensor | Vector]) -> tuple[dict[str, float | int], ...]:
    listed = {name: values.tolist() for name, values in columns.items()}
    return tuple(dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True))


def native_budget(attack: Attack, case: Case) -> float | None:
    """The budget in the data's own unit (HU for CT) where it bounds intensities, and those of all channels alike."""
    if attack.budget_name is None or attack.threat_model not in INTENSITY_BUDGETS:
        return None
    widths = {high - low for low, high in case.native_ranges}
    return float(getattr(attack, attack.budget_name)) * widths.pop() if len(widths) == 1 else None
