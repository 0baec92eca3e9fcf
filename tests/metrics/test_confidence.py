"""Calibration against MONAI's bins and by counting."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from freqbench.core.errors import UserError
from freqbench.metrics import calibration

SHAPE = (9, 8, 7)


def monai_ece(confidence: Any, is_right: Any) -> float:
    calibration_binning = pytest.importorskip("monai.metrics.calibration", reason="of MONAI 1.6").calibration_binning

    sure, right = (torch.as_tensor(each, dtype=torch.float64).reshape(1, 1, -1) for each in (confidence, is_right))
    means, true, counts = calibration_binning(sure, right, num_bins=15)
    return float((counts * (means - true).abs()).nansum() / counts.sum())


def test_ece_is_monais_of_all_voxels_and_of_each_class() -> None:
    rng = np.random.default_rng(0)
    pred, label = rng.integers(0, 3, (2, *SHAPE))
    confidence = rng.random(SHAPE)
    confidence[0, 0, :2] = 0.0, 1.0
    scores = calibration(confidence, pred, label, 4)
    assert scores.ece == pytest.approx(monai_ece(confidence, pred == label), abs=1e-6)
    for number in range(3):
        of_class = pred == number
        expected = monai_ece(confidence[of_class], label[of_class] == number)
        assert scores.ece_by_class[number] == pytest.approx(expected, abs=1e-6)
        assert scores.wrong_confidence_by_class[number] == pytest.approx(confidence[of_class & (pred != label)].mean())
    assert scores.wrong_confidence == pytest.approx(confidence[pred != label].mean())
    assert math.isnan(scores.ece_by_class[3])
    assert math.isnan(scores.wrong_confidence_by_class[3])


@pytest.mark.parametrize(
    ("confidence", "wrong", "ece", "wrong_confidence"),
    [(0.75, 1, 0.0, 0.75), (1.0, 4, 1.0, 1.0), (1.0, 0, 0.0, math.nan), (0.5, 0, 0.5, math.nan)],
)
def test_four_voxels_by_hand(confidence: float, wrong: int, ece: float, wrong_confidence: float) -> None:
    pred, label = np.ones((2, 4, 1, 1), int)
    label[:wrong] = 0
    scores = calibration(np.full((4, 1, 1), confidence), pred, label, 2)
    assert scores.ece == scores.ece_by_class[1] == pytest.approx(ece)
    assert scores.wrong_confidence == pytest.approx(wrong_confidence, nan_ok=True)
    assert math.isnan(scores.ece_by_class[0])


@pytest.mark.parametrize("confidence", [np.full((2, 2, 2), 3.5), np.full((2, 2, 2), np.nan)])
def test_logits_are_refused(confidence: Any) -> None:
    with pytest.raises(UserError, match=r"expected confidence in \[0, 1\].*give probabilities"):
        calibration(confidence, np.ones((2, 2, 2), int), np.ones((2, 2, 2), int), 2)
