"""Measures what an attack did: overlap and surface distances of predictions, distances between volumes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from freqbench.metrics.image import body_mask, energy_scores, image_scores, l2, linf, psnr, seam_scores, ssim
from freqbench.metrics.overlap import (
    certified_scores,
    class_mean,
    confusion,
    dice,
    dice_from_confusion,
    foreground_mean,
    hallucinated_classes,
    missed_classes,
    undefined_classes,
    voxel_success,
)
from freqbench.metrics.perceptual import lpips, lpips_scores, prepare_lpips
from freqbench.metrics.surface import hd95, hd95_penalised, surface_scores
from freqbench.metrics.volumes import Scores
from freqbench.metrics.weights import LpipsUnavailable
from freqbench.metrics.weights import find as lpips_weights

__all__ = [
    "METRICS",
    "LpipsUnavailable",
    "Metric",
    "Scores",
    "body_mask",
    "certified_scores",
    "class_mean",
    "confusion",
    "dice",
    "dice_from_confusion",
    "energy_scores",
    "foreground_mean",
    "hallucinated_classes",
    "hd95",
    "hd95_penalised",
    "image_scores",
    "l2",
    "linf",
    "lpips",
    "lpips_scores",
    "lpips_weights",
    "missed_classes",
    "prepare_lpips",
    "psnr",
    "seam_scores",
    "ssim",
    "surface_scores",
    "undefined_classes",
    "voxel_success",
]


@dataclass(frozen=True)
class Metric:
    """One metric that a job can ask for."""

    title: str  # heading of a table
    unit: str  # of its main column, "1" for a plain number
    direction: Literal["higher", "lower"]  # which value means that less was changed or lost
    columns: tuple[str, ...]  # the record columns that it fills, the main one first


_DSC = ("dsc", "dsc_clean", "dsc_foreground", "dsc_foreground_clean", "missed_classes", "hallucinated_classes")
_HD95 = ("hd95", "hd95_clean", "hd95_mm", "hd95_mm_clean", "hd95_medpy_mm")
_PENALISED = ("hd95_penalised", "hd95_penalised_clean", "hd95_undefined_classes")

METRICS: Mapping[str, Metric] = {
    "dsc": Metric("DSC", "fraction", "higher", _DSC),
    "hd95": Metric("HD95", "voxel", "lower", (*_HD95, *_PENALISED)),
    "ssim": Metric("SSIM", "fraction", "higher", ("ssim", "ssim_body")),
    "psnr": Metric("PSNR", "dB", "higher", ("psnr",)),
    "lpips": Metric("LPIPS", "1", "higher", ("lpips_similarity", "lpips_distance", "lpips_body")),
    "linf": Metric("L-inf", "intensity", "lower", ("linf",)),
    "l2": Metric("L2", "intensity", "lower", ("l2", "l2_body")),
    "energy": Metric("Energy", "intensity", "lower", ("energy_low", "energy_middle", "energy_high")),
    "seam": Metric("Seams", "ratio", "lower", ("seam_energy",)),
    "voxel_success": Metric("Changed voxels", "fraction", "lower", ("voxel_success",)),
}
