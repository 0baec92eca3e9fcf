"""Measures an attack's effect: overlap, surfaces, components and calibration of predictions, distances of volumes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Metric:
    """One metric that a job can request."""

    title: str  # heading of a table
    unit: str  # unit of its main column, "1" for a plain number
    direction: Literal["higher", "lower"]  # direction of less change or loss
    columns: tuple[str, ...]  # the record columns that it fills, the main one first
    of: Literal["labels", "probabilities", "volumes"]  # its inputs: of a prediction, or the two volumes


def _and_clean(*columns: str) -> tuple[str, ...]:
    return tuple(name for column in columns for name in (column, f"{column}_clean"))


_DSC = (*_and_clean("dsc", "dsc_foreground"), "missed_classes", "hallucinated_classes")
_HD95 = (*_and_clean("hd95", "hd95_mm"), "hd95_medpy_mm", *_and_clean("hd95_penalised"), "hd95_undefined_classes")
_VOLUME = (*_and_clean("volume_error_relative", "volume_error_ml"), "volume_undefined_classes")
_COMPONENTS = (*_and_clean("component_f1"), "components_undefined_classes")
_TOPOLOGY = (*_and_clean("betti0_error", "betti1_error", "betti2_error"), "topology_undefined_classes")
_LESIONS = _and_clean("lesion_dice", "lesion_hd95_mm", "lesions_missed", "lesions_false")
_CALIBRATION = (*_and_clean("ece", "ece_foreground", "wrong_confidence"), "calibration_undefined_classes")

METRICS: Mapping[str, Metric] = {
    "dsc": Metric("DSC", "fraction", "higher", _DSC, "labels"),
    "hd95": Metric("HD95", "voxel", "lower", _HD95, "labels"),
    "nsd": Metric("NSD", "fraction", "higher", ("nsd", "nsd_clean", "nsd_undefined_classes"), "labels"),
    "assd": Metric("ASSD", "mm", "lower", ("assd_mm", "assd_mm_clean", "assd_undefined_classes"), "labels"),
    "volume": Metric("Volume error", "ratio", "lower", _VOLUME, "labels"),
    "components": Metric("Component F1", "fraction", "higher", _COMPONENTS, "labels"),
    "topology": Metric("Topology", "count", "lower", _TOPOLOGY, "labels"),
    "brats": Metric("DSC BraTS", "fraction", "higher", _and_clean("dsc_brats", "hd95_brats_mm"), "labels"),
    "lesion": Metric("Lesion DSC", "fraction", "higher", _LESIONS, "labels"),
    "calibration": Metric("ECE", "fraction", "lower", _CALIBRATION, "probabilities"),
    "ssim": Metric("SSIM", "fraction", "higher", ("ssim", "ssim_body"), "volumes"),
    "psnr": Metric("PSNR", "dB", "higher", ("psnr",), "volumes"),
    "lpips": Metric("LPIPS", "1", "higher", ("lpips_similarity", "lpips_distance", "lpips_body"), "volumes"),
    "linf": Metric("L-inf", "intensity", "lower", ("linf",), "volumes"),
    "l2": Metric("L2", "intensity", "lower", ("l2", "l2_body"), "volumes"),
    "energy": Metric("Energy", "intensity", "lower", ("energy_low", "energy_middle", "energy_high"), "volumes"),
    "seam": Metric("Seams", "ratio", "lower", ("seam_energy",), "volumes"),
    "voxel_success": Metric("Changed voxels", "fraction", "lower", ("voxel_success",), "labels"),
}


def metric_of(text: str) -> Metric:
    """Returns a metric of METRICS by its name, or one of an installed package by its name or text in rows."""
    if text in METRICS:
        return METRICS[text]
    added = load(name_of(text))
    return Metric(added.title, added.unit, added.direction, _and_clean(name_of(text)), "labels")
