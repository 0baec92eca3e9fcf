"""What an attack did: overlap and surface distances of predictions, distances between clean and attacked volumes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from freqbench.metrics.certified import certified_scores
from freqbench.metrics.frequency import energy_scores
from freqbench.metrics.image import body_mask, image_scores, l2, linf, psnr, ssim
from freqbench.metrics.overlap import (
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


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "dsc": Metric(
            title="DSC",
            unit="fraction",
            direction="higher",
            columns=(
                "dsc",
                "dsc_clean",
                "dsc_foreground",
                "dsc_foreground_clean",
                "missed_classes",
                "hallucinated_classes",
            ),
        ),
        "hd95": Metric(
            title="HD95",
            unit="voxel",
            direction="lower",
            columns=(
                "hd95",
                "hd95_clean",
                "hd95_mm",
                "hd95_mm_clean",
                "hd95_medpy_mm",
                "hd95_penalised",
                "hd95_penalised_clean",
                "hd95_undefined_classes",
            ),
        ),
        "ssim": Metric(title="SSIM", unit="fraction", direction="higher", columns=("ssim", "ssim_body")),
        "psnr": Metric(title="PSNR", unit="dB", direction="higher", columns=("psnr",)),
        "lpips": Metric(
            title="LPIPS",
            unit="1",
            direction="higher",
            columns=("lpips_similarity", "lpips_distance", "lpips_body"),
        ),
        "linf": Metric(title="L-inf", unit="intensity", direction="lower", columns=("linf",)),
        "l2": Metric(title="L2", unit="intensity", direction="lower", columns=("l2", "l2_body")),
        "energy": Metric(
            title="Energy",
            unit="intensity",
            direction="lower",
            columns=("energy_low", "energy_middle", "energy_high"),
        ),
        "seam": Metric(title="Seams", unit="ratio", direction="lower", columns=("seam_energy",)),
        "voxel_success": Metric(title="Changed voxels", unit="fraction", direction="lower", columns=("voxel_success",)),
    }
)
