"""Measures the reliability of a network's confidence.
C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599;
by class as in C. Gupta, A. Ramdas, "Top-label calibration and multiclass-to-binary reductions", ICLR 2022,
arXiv:2107.08353."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.metrics.volumes import Volume, as_tensor, class_maps, require_same_shape
from freqbench.ops.regions import members
from freqbench.ops.voxels import counted

BINS = 15


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration over all voxels, and over those predicted as each class, float64 `[K]`; NaN if there are none."""

    ece: float
    ece_by_class: npt.NDArray[np.float64]
    wrong_confidence: float
    wrong_confidence_by_class: npt.NDArray[np.float64]


def calibration(
    confidence: Volume, pred: Volume, label: Volume, num_classes: int, has_regions: bool = False
) -> Calibration:
    r"""Returns the expected calibration error over BINS bins of equal width, and the mean confidence on wrong voxels.

    With n_b the voxels whose confidence lies in bin b (lower bound included), and n voxels in all:

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \, |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Both are 0 to 1. Raises UserError for different shapes, a confidence outside [0, 1], a value that is no class, or
    over 256 classes.

    Args:
        confidence: the probability of the predicted class, `[H, W, D]` in [0, 1].
        pred: predicted classes `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included.
        has_regions: the maps hold codes of regions (`freqbench.ops.regions`): a voxel is right if all its regions are,
            and counts for each region that it is predicted in.
    """
    codes = 1 << num_classes - 1 if has_regions else num_classes
    sure = as_tensor(confidence).double().cpu()
    predicted, labelled = (torch.from_numpy(classes).short() for classes in class_maps(pred, label, codes))
    require_same_shape(sure.shape, predicted.shape)
    least, most = sure.aminmax()
    if not (least >= 0 and most <= 1):
        raise UserError(f"expected confidence in [0, 1], got {least:.4g} to {most:.4g}: give probabilities")
    counts = counted(as_tensor(label).cpu(), codes)
    kept = slice(None) if counts is None else counts.flatten()
    sure, predicted, is_right = (each.flatten()[kept] for each in (sure, predicted, predicted == labelled))

    score = _region_scores if has_regions else _class_scores
    return score(sure, predicted, is_right, num_classes)


def _region_scores(sure: Tensor, predicted: Tensor, is_right: Tensor, num_classes: int) -> Calibration:
    insides = [members(predicted, k) for k in range(num_classes)]
    ece, wrong = _score(sure, is_right)
    ece_by_class, wrong_by_class = np.array([_score(sure[inside], is_right[inside]) for inside in insides]).T
    return Calibration(
        ece=ece, ece_by_class=ece_by_class, wrong_confidence=wrong, wrong_confidence_by_class=wrong_by_class
    )


def _class_scores(sure: Tensor, predicted: Tensor, is_right: Tensor, num_classes: int) -> Calibration:
    def sums(places: Tensor, values: Tensor | None, size: int) -> Tensor:
        return torch.bincount(places, values, size).double().reshape(num_classes, -1)

    places = predicted * BINS + (sure * BINS).short().clamp(max=BINS - 1)
    gaps = sums(places, sure - is_right.double(), num_classes * BINS)  # [K, BINS]
    wrong = predicted[~is_right]
    voxels = sums(predicted, None, num_classes)[:, 0]
    wrong_voxels = sums(wrong, None, num_classes)[:, 0]
    wrong_sums = sums(wrong, sure[~is_right], num_classes)[:, 0]
    ece = gaps.sum(0).abs().sum() / voxels.sum()
    ece_by_class = gaps.abs().sum(1) / voxels
    confidence = wrong_sums.sum() / wrong_voxels.sum()
    confidence_by_class = wrong_sums / wrong_voxels
    return Calibration(
        ece=float(ece),
        ece_by_class=ece_by_class.numpy(),
        wrong_confidence=float(confidence),
        wrong_confidence_by_class=confidence_by_class.numpy(),
    )


def _score(sure: Tensor, is_right: Tensor) -> tuple[float, float]:
    """Returns the calibration error of some voxels and the mean confidence of the wrong ones; NaN without any."""
    bins = (sure * BINS).long().clamp(max=BINS - 1)
    gaps = torch.bincount(bins, sure - is_right.double(), BINS).abs().sum() / len(sure) if len(sure) else math.nan
    return float(gaps), float(sure[~is_right].mean())
