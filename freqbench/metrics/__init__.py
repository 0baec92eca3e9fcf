"""Measures an attack's effect: overlap, surfaces, components and calibration of predictions, distances of volumes."""

from collections.abc import Mapping
from functools import partial
from inspect import getdoc, signature
from pkgutil import resolve_name
from typing import Any

from freqbench.core.measures import ADDED_METRIC, METRICS, Metric, Number
from freqbench.metrics import weights
from freqbench.metrics.added import LabelMetric, added_scores, load, name_of
from freqbench.metrics.components import betti_errors, component_f1
from freqbench.metrics.confidence import Calibration, calibration
from freqbench.metrics.image import body_mask, energy_scores, image_scores, l2, linf, psnr, seam_scores, ssim
from freqbench.metrics.lesions import brats_scores, lesion_scores
from freqbench.metrics.overlap import (
    Values,
    certified_scores,
    class_mean,
    confusion,
    dice,
    dice_from_confusion,
    foreground_mean,
    hallucinated_classes,
    missed_classes,
    undefined_classes,
    volume_errors,
    voxel_success,
)
from freqbench.metrics.perceptual import lpips, lpips_scores, prepare_lpips
from freqbench.metrics.surface import assd, hd95, hd95_penalised, nsd, surface_scores
from freqbench.metrics.volumes import Scores
from freqbench.metrics.weights import LpipsUnavailable

__all__ = ["METRICS", "Calibration", "LabelMetric", "LpipsUnavailable", "Metric", "Scores", "added_scores", "assd"]
__all__ += ["betti_errors", "body_mask", "brats_scores", "calibration", "certified_scores", "class_mean"]
__all__ += ["component_f1", "confusion", "dice", "dice_from_confusion", "energy_scores", "foreground_mean"]
__all__ += ["hallucinated_classes", "hd95", "hd95_penalised", "image_scores", "l2", "lesion_scores", "linf", "lpips"]
__all__ += ["lpips_scores", "missed_classes", "name_of", "nsd", "prepare_lpips", "psnr", "seam_scores", "ssim"]
__all__ += ["surface_scores", "undefined_classes", "volume_errors", "voxel_success"]

lpips_weights = weights.find


def metric_of(text: str) -> Metric:
    """Returns a metric of METRICS by its name, or one of an installed package by its name or text in rows."""
    if text in METRICS:
        return METRICS[text]
    added = load(name_of(text))
    name = name_of(text)
    about = " ".join((getdoc(added) or "").partition("\n")[0].rstrip(".").split())
    mean = f"{about}, mean over defined foreground classes"
    number = Number(text, name, added.unit, added.direction, mean, (ADDED_METRIC, ADDED_METRIC), (name, 1), about)
    return Metric(added.title, added.unit, added.direction, "labels", numbers=(number,))


def class_values(text: str, **given: Any) -> Mapping[str, Values]:
    """Returns a metric's columns of class records, one value per class: `text` is its name, or its text in rows, and
    `given` holds arguments, of which its function takes those that it knows."""
    own = METRICS[text].function if text in METRICS else ""
    function = resolve_name(f"{__name__}.{own}") if own else partial(added_scores, text)
    values = function(**{name: given[name] for name in signature(function).parameters if name in given})
    return values if isinstance(values, Mapping) else {metric_of(text).numbers[0].name: values}
