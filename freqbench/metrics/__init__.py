"""Measures what an attack did: overlap and surface distances of predictions, distances between volumes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from freqbench.metrics.frequency import energy_scores
from freqbench.metrics.image import body_mask, image_scores, l2, linf, psnr, ssim
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
from freqbench.metrics.seam import seam_scores
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


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric that a job can ask for.

    Attributes:
        title: as a table's heading has it.
        unit: of its main column, "1" for a plain number.
        direction: whether a higher or a lower value means that less was changed or lost.
        columns: the record columns that it fills, the main one first.
    """

    title: str
    unit: str
    direction: Literal["higher", "lower"]
    columns: tuple[str, ...]


def _metric(title: str, unit: str, direction: Literal["higher", "lower"], *columns: str) -> Metric:
    return Metric(title=title, unit=unit, direction=direction, columns=columns)


_DSC = ("dsc", "dsc_clean", "dsc_foreground", "dsc_foreground_clean", "missed_classes", "hallucinated_classes")
_HD95 = ("hd95", "hd95_clean", "hd95_mm", "hd95_mm_clean", "hd95_medpy_mm")
_PENALISED = ("hd95_penalised", "hd95_penalised_clean", "hd95_undefined_classes")
_LPIPS = ("lpips_similarity", "lpips_distance", "lpips_body")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "dsc": _metric("DSC", "fraction", "higher", *_DSC),
        "hd95": _metric("HD95", "voxel", "lower", *_HD95, *_PENALISED),
        "ssim": _metric("SSIM", "fraction", "higher", "ssim", "ssim_body"),
        "psnr": _metric("PSNR", "dB", "higher", "psnr"),
        "lpips": _metric("LPIPS", "1", "higher", *_LPIPS),
        "linf": _metric("L-inf", "intensity", "lower", "linf"),
        "l2": _metric("L2", "intensity", "lower", "l2", "l2_body"),
        "energy": _metric("Energy", "intensity", "lower", "energy_low", "energy_middle", "energy_high"),
        "seam": _metric("Seams", "ratio", "lower", "seam_energy"),
        "voxel_success": _metric("Changed voxels", "fraction", "lower", "voxel_success"),
    }
)
