"""Attack one case, score one case: knows no files, no processes and no grid."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.attacks import Attack
from freqbench.identity import window_generator
from freqbench.metrics import (
    METRICS,
    Scores,
    body_mask,
    class_mean,
    confusion,
    dice_from_confusion,
    foreground_mean,
    hallucinated_classes,
    hd95_penalised,
    image_scores,
    lpips_scores,
    missed_classes,
    surface_scores,
    undefined_classes,
    voxel_success,
)
from freqbench.models import SegmentationModel, attack_windows
from freqbench.types import Case

ALWAYS = ("linf", "l2", "voxel_success")
INTENSITY_BUDGETS = ("linf", "gaussian")
SURFACES = ("hd95", "hd95_mm", "hd95_medpy_mm")

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AttackedVolume:
    """An adversarial volume and what it took.

    Attributes:
        adversarial: float32 `[1, H, W, D]` in [0, 1], on the CPU.
        num_windows: windows that were attacked.
        num_forwards: forward passes over all windows.
        num_backwards: backward passes over all windows.
    """

    adversarial: Tensor
    num_windows: int
    num_forwards: int
    num_backwards: int


def attack_case(
    attack: Attack, model: SegmentationModel, case: Case, seed: int | None, window_batch: int
) -> AttackedVolume:
    """Attack a volume window by window.

    Every window starts from the clean volume and has a generator of its own (from the seed, the case's content and the
    window's number), so the result does not depend on `window_batch` beyond rounding, for attacks that do not couple
    the samples of a batch. Where the last windows overlap their neighbours, the later one overwrites.

    Args:
        attack: what to do.
        model: whose gradients, on the device to compute on.
        case: the clean volume and its label.
        seed: of the draws; None where the attack draws nothing.
        window_batch: windows attacked at once.
    """
    device = next(model.parameters()).device
    image, label = case.image.to(device), case.label.to(device)
    shape = tuple(image.shape[1:])
    windows = attack_windows((shape[0], shape[1], shape[2]), model.roi)
    adversarial = image.clone()
    num_forwards = num_backwards = 0
    for first in range(0, len(windows), window_batch):
        batch = windows[first : first + window_batch]
        result = attack(
            model,
            torch.stack([image[:, h, w, d] for h, w, d in batch]),
            torch.stack([label[:, h, w, d] for h, w, d in batch]),
            generator=[window_generator(seed or 0, case.ref.fingerprint, first + i) for i in range(len(batch))],
        )
        for (h, w, d), window in zip(batch, result.adversarial, strict=True):
            adversarial[:, h, w, d] = window
        num_forwards += result.num_forwards * len(batch)
        num_backwards += result.num_backwards * len(batch)
    return AttackedVolume(
        adversarial=adversarial.cpu(),
        num_windows=len(windows),
        num_forwards=num_forwards,
        num_backwards=num_backwards,
    )


def score_volume(
    case: Case,
    adversarial: Tensor,
    metrics: Sequence[str],
    device: torch.device,
    unavailable: Mapping[str, str] = MappingProxyType({}),
) -> Scores:
    """How far an adversarial volume is from the clean one, whatever any model makes of it.

    Args:
        case: the clean volume.
        adversarial: float32 `[1, H, W, D]`.
        metrics: names of METRICS; columns of the others are left out, L-inf and L2 are always there.
        device: where LPIPS runs.
        unavailable: metrics that this machine cannot compute, with the reason.
    """
    body = body_mask(case.image)
    scores = image_scores(case.image, adversarial, body)
    values, reasons = dict(scores.values), dict(scores.reasons)
    if "lpips" in metrics:
        if "lpips" in unavailable:
            perceptual = _missing("lpips", unavailable["lpips"])
        else:
            perceptual = lpips_scores(case.image.to(device), adversarial.to(device), body)
        values |= perceptual.values
        reasons |= perceptual.reasons
    wanted = {column for metric in (*metrics, *ALWAYS) for column in METRICS[metric].columns}
    return Scores(
        values={column: value for column, value in values.items() if column in wanted},
        reasons={column: reason for column, reason in reasons.items() if column in wanted},
    )


def _missing(metric: str, reason: str) -> Scores:
    columns = METRICS[metric].columns
    return Scores(values=dict.fromkeys(columns, math.nan), reasons=dict.fromkeys(columns, reason))


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """What a prediction is worth, class by class.

    Attributes:
        counts: confusion counts `[K, K]`, rows label, columns prediction.
        surfaces: `hd95`, `hd95_mm`, `hd95_medpy_mm`, each `[K]` with NaN where undefined; None where not asked for.
    """

    counts: Tensor
    surfaces: Mapping[str, Vector] | None = None


def score_overlap(pred: Tensor, label: Tensor, num_classes: int) -> ClassScores:
    """Confusion counts of a predicted label map `[H, W, D]` with the true one."""
    return ClassScores(counts=confusion(pred, label, num_classes))


def add_surfaces(scores: ClassScores, pred: Tensor, label: Tensor, spacing: Sequence[float]) -> ClassScores:
    """The same scores with surface distances, a function of the masks alone."""
    return replace(scores, surfaces=surface_scores(pred, label, len(scores.counts), spacing))


def record_values(clean: ClassScores, attacked: ClassScores, case: Case, metrics: Sequence[str]) -> dict[str, Any]:
    """The record columns that predictions decide: Dice, surface distances, missed and hallucinated classes."""
    values: dict[str, Any] = {}
    if "dsc" in metrics:
        for suffix, scores in (("", attacked), ("_clean", clean)):
            dice = dice_from_confusion(scores.counts)
            values[f"dsc{suffix}"] = class_mean(dice)
            values[f"dsc_foreground{suffix}"] = foreground_mean(dice)
        values["missed_classes"] = missed_classes(attacked.counts)
        values["hallucinated_classes"] = hallucinated_classes(attacked.counts)
    if "hd95" in metrics and clean.surfaces is not None and attacked.surfaces is not None:
        in_label = attacked.counts.sum(dim=1).numpy() > 0
        shape = case.label.shape[1:]
        for suffix, surfaces in (("", attacked.surfaces), ("_clean", clean.surfaces)):
            values[f"hd95{suffix}"] = class_mean(surfaces["hd95"])
            values[f"hd95_mm{suffix}"] = foreground_mean(surfaces["hd95_mm"])
            values[f"hd95_penalised{suffix}"] = hd95_penalised(surfaces["hd95_mm"], in_label, shape, case.spacing)
        values["hd95_medpy_mm"] = foreground_mean(attacked.surfaces["hd95_medpy_mm"])
        values["hd95_undefined_classes"] = undefined_classes(attacked.surfaces["hd95"])
    return values


def class_values(
    clean: ClassScores, attacked: ClassScores, class_names: Sequence[str], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """The columns of CLASS_RECORDS that predictions decide, one dict a class; what was not asked for is None."""
    with_dice = "dsc" in metrics
    dice, dice_clean = (dice_from_confusion(scores.counts) for scores in (attacked, clean))
    rows = []
    for k, name in enumerate(class_names):
        row: dict[str, Any] = {
            "class_index": k,
            "class_name": name,
            "label_voxels": int(attacked.counts[k].sum()),
            "pred_voxels": int(attacked.counts[:, k].sum()),
            "pred_voxels_clean": int(clean.counts[:, k].sum()),
            "dsc": float(dice[k]) if with_dice else None,
            "dsc_clean": float(dice_clean[k]) if with_dice else None,
        }
        for column in SURFACES:
            row[column] = None if attacked.surfaces is None else float(attacked.surfaces[column][k])
        for column in ("hd95", "hd95_mm"):
            row[f"{column}_clean"] = None if clean.surfaces is None else float(clean.surfaces[column][k])
        rows.append(row)
    return rows


def changed_voxels(pred_clean: Tensor, pred: Tensor) -> float:
    """The share of voxels whose predicted class the attack changed."""
    return voxel_success(pred_clean, pred)


def native_budget(attack: Attack, case: Case) -> float | None:
    """The budget in the data's own unit (HU for CT) where it bounds intensities, else None."""
    if attack.threat_model not in INTENSITY_BUDGETS:
        return None
    low, high = case.native_range
    return float(getattr(attack, attack.budget_name)) * (high - low)


def nulls(scores: Scores) -> tuple[dict[str, float | None], str | None]:
    """Columns for a row: what could not be computed is None and its reason stands in the JSON text beside."""
    values = {column: None if column in scores.reasons else value for column, value in scores.values.items()}
    return values, json.dumps(dict(scores.reasons), sort_keys=True) if scores.reasons else None
