"""Measures an attack's effect: overlap, surfaces, components and calibration of predictions, distances of volumes."""

from collections.abc import Mapping
from functools import partial
from inspect import getdoc, signature
from pkgutil import resolve_name
from typing import Any

from freqbench.core.measures import ADDED_METRIC, Number
from freqbench.core.measures import METRICS as METRICS
from freqbench.core.measures import Metric as Metric
from freqbench.metrics import weights
from freqbench.metrics.added import LabelMetric as LabelMetric
from freqbench.metrics.added import added_scores as added_scores
from freqbench.metrics.added import load
from freqbench.metrics.added import name_of as name_of
from freqbench.metrics.components import betti_errors as betti_errors
from freqbench.metrics.components import component_f1 as component_f1
from freqbench.metrics.confidence import Calibration as Calibration
from freqbench.metrics.confidence import calibration as calibration
from freqbench.metrics.image import body_mask as body_mask
from freqbench.metrics.image import energy_scores as energy_scores
from freqbench.metrics.image import image_scores as image_scores
from freqbench.metrics.image import l2 as l2
from freqbench.metrics.image import linf as linf
from freqbench.metrics.image import psnr as psnr
from freqbench.metrics.image import seam_scores as seam_scores
from freqbench.metrics.image import ssim as ssim
from freqbench.metrics.lesions import brats_scores as brats_scores
from freqbench.metrics.lesions import lesion_scores as lesion_scores
from freqbench.metrics.overlap import Values
from freqbench.metrics.overlap import certified_scores as certified_scores
from freqbench.metrics.overlap import class_mean as class_mean
from freqbench.metrics.overlap import confusion as confusion
from freqbench.metrics.overlap import dice as dice
from freqbench.metrics.overlap import dice_from_confusion as dice_from_confusion
from freqbench.metrics.overlap import foreground_mean as foreground_mean
from freqbench.metrics.overlap import hallucinated_classes as hallucinated_classes
from freqbench.metrics.overlap import missed_classes as missed_classes
from freqbench.metrics.overlap import undefined_classes as undefined_classes
from freqbench.metrics.overlap import volume_errors as volume_errors
from freqbench.metrics.overlap import voxel_success as voxel_success
from freqbench.metrics.perceptual import lpips as lpips
from freqbench.metrics.perceptual import lpips_scores as lpips_scores
from freqbench.metrics.perceptual import prepare_lpips as prepare_lpips
from freqbench.metrics.surface import assd as assd
from freqbench.metrics.surface import hd95 as hd95
from freqbench.metrics.surface import hd95_penalised as hd95_penalised
from freqbench.metrics.surface import nsd as nsd
from freqbench.metrics.surface import surface_scores as surface_scores
from freqbench.metrics.volumes import Scores as Scores
from freqbench.metrics.weights import LpipsUnavailable as LpipsUnavailable

lpips_weights = weights.find


def metric_of(text: str) -> Metric:
    """Returns a metric of METRICS by its name, or one of an installed package by its name or text in rows."""
    if text in METRICS:
        return METRICS[text]
    added, name = load(name_of(text)), name_of(text)
    about = " ".join((getdoc(added) or "").partition("\n")[0].rstrip(".").split())
    mean = f"{about}, mean over defined foreground classes"
    number = Number(text, name, added.unit, added.direction, mean, (ADDED_METRIC, ADDED_METRIC), (name, 1), about)
    return Metric(added.title, added.unit, added.direction, "labels", numbers=(number,))


def class_values(text: str, **given: Any) -> Mapping[str, Values]:
    """Returns a metric's columns of class records, one value per class, of what its function takes of `given`."""
    own = METRICS[text].function if text in METRICS else ""
    function = resolve_name(f"{__name__}.{own}") if own else partial(added_scores, text)
    values = function(**{name: given[name] for name in signature(function).parameters if name in given})
    return values if isinstance(values, Mapping) else {metric_of(text).numbers[0].name: values}
