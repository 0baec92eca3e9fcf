"""Dice and counts against hand-counted values, MONAI's stored ones, and every prediction that a certificate allows."""

import json
import math
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from freqbench import metrics
from freqbench.core.errors import UserError
from freqbench.metrics import certified_scores, class_mean, confusion, dice, dice_from_confusion, foreground_mean

LABEL = np.array([[[0, 0, 1, 1, 2, 2, 3, 0]]])
PRED = np.array([[[0, 1, 1, 1, 2, 0, 0, 4]]])  # class 3 missed, class 4 hallucinated, class 5 nowhere


def test_dice_is_the_hand_counted_one() -> None:
    expected = [2 * 1 / (3 + 3), 2 * 2 / (2 + 3), 2 * 1 / (2 + 1), 0.0, math.nan, math.nan]
    np.testing.assert_allclose(dice(PRED, LABEL, 6), expected)


@pytest.mark.parametrize("classes", [16, 17, 32, 256])
def test_confusion_keeps_pairs_of_high_classes_apart(classes: int) -> None:
    label = torch.arange(classes, dtype=torch.uint8).reshape(-1, 1, 1)
    assert torch.equal(confusion(label.flip(0), label, classes), torch.eye(classes, dtype=torch.int64).flip(1))


def test_confusion_has_labels_in_rows() -> None:
    counts = confusion(torch.as_tensor(PRED), torch.as_tensor(LABEL), 6)
    assert (counts.dtype, counts[0].tolist()) == (torch.int64, [1, 1, 0, 0, 1, 0])
    assert (counts[3].tolist(), counts.sum()) == ([1, 0, 0, 0, 0, 0], LABEL.size)


def test_missed_and_hallucinated_classes_are_counted() -> None:
    counts = confusion(PRED, LABEL, 6)
    assert (metrics.missed_classes(counts), metrics.hallucinated_classes(counts)) == (1, 1)
    assert (metrics.voxel_success(LABEL, PRED), metrics.voxel_success(PRED, PRED)) == (4 / 8, 0.0)


@pytest.mark.parametrize("case", ["normal", "label_absent3", "pred_absent3", "both_absent3", "border_thin"])
def test_dice_is_monais_stored_one(arrays: Path, case: str) -> None:
    folder = arrays / "models"
    values = json.loads((folder / "metrics_values.json").read_text())["values"][case]
    with np.load(folder / "metrics.npz") as maps:
        ours = dice(maps[f"{case}__pred"], maps[f"{case}__label"], 4)
    np.testing.assert_allclose(ours, [float(v) for v in values["monai_dice_bg1_ignore_empty1"]], rtol=1e-6)
    assert class_mean(ours) == pytest.approx(values["monai_dice_bg1_mean"][0], rel=1e-6)
    assert foreground_mean(ours) == pytest.approx(values["monai_dice_bg0_mean"][0], rel=1e-6)


def test_leading_axes_and_mixed_integers_are_fine() -> None:
    wide = torch.as_tensor(PRED).to(torch.uint8)[None, None]
    np.testing.assert_array_equal(dice(wide, LABEL, 6), dice_from_confusion(confusion(PRED, LABEL, 6)))


def test_means_over_nothing_are_nan_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(class_mean(np.array([math.nan, math.nan])))
        assert math.isnan(foreground_mean(np.array([1.0, math.nan])))
        assert math.isnan(dice(np.zeros((1, 1, 1), int), np.zeros((1, 1, 1), int), 2)[1])


def test_a_value_that_is_no_class_is_refused() -> None:
    with pytest.raises(UserError, match="expected classes 0 to 2, got 0 to 4: map the labels"):
        dice(PRED, np.zeros_like(LABEL), 3)


def row(*values: int) -> Tensor:
    return torch.tensor(values).reshape(1, 1, -1)


def test_an_abstention_counts_as_a_class_that_is_never_right() -> None:
    """Class 1: 2 of its 4 voxels certified right, 1 certified elsewhere, 1 of the abstaining ones outside it."""
    label = row(1, 1, 1, 1, 0, 0, 0, 0)
    pred = row(1, 1, 1, 0, 1, 0, 1, 0)
    scores = certified_scores(pred, row(1, 1, 0, 1, 1, 1, 0, 1).bool(), label, 2)
    assert (scores["certified_share"], scores["certified_dice"]) == (6 / 8, pytest.approx(2 * 2 / (3 + 4)))
    assert scores["certified_dice_bound"] == pytest.approx(2 * 2 / (3 + 4 + 1))


def test_the_bound_is_the_lowest_dice_that_a_certificate_allows() -> None:
    """Each class is bounded by itself, over every assignment of classes to the voxels that abstain."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        label, pred = (torch.randint(0, 2, (1, 1, 8), generator=generator) for _ in range(2))
        label[..., 0] = 1
        certified = torch.rand(1, 1, 8, generator=generator) > 0.5
        free = (~certified).nonzero()
        lowest = np.inf
        for classes in product(range(2), repeat=len(free)):
            allowed = pred.clone()
            allowed[~certified] = torch.tensor(classes, dtype=allowed.dtype)
            lowest = min(lowest, float(dice(allowed, label, 2)[1]))
        assert certified_scores(pred, certified, label, 2)["certified_dice_bound"] == pytest.approx(lowest)


def test_a_certificate_without_foreground_has_no_dice() -> None:
    empty = torch.zeros(2, 2, 2, dtype=torch.uint8)
    scores = certified_scores(empty, empty.bool(), empty, 3)
    assert scores["certified_share"] == 0
    assert np.isnan(scores["certified_dice"])
    assert np.isnan(scores["certified_dice_bound"])


def test_volume_errors_of_a_grown_a_missed_and_an_invented_class() -> None:
    """Voxels of a cubic centimetre: class 1 has two and is given three, class 2 is missed, class 3 is nowhere true."""
    label = torch.tensor([1, 1, 0, 2, 0, 0])
    pred = torch.tensor([1, 1, 1, 0, 3, 0])
    counts = confusion(pred.reshape(6, 1, 1), label.reshape(6, 1, 1), 5)
    errors = metrics.volume_errors(counts, (5.0, 10.0, 20.0))
    np.testing.assert_allclose(errors["volume_error_ml"], [math.nan, 1, -1, math.nan, math.nan])
    np.testing.assert_allclose(errors["volume_error_relative"], [math.nan, 0.5, 1, math.nan, math.nan])
    np.testing.assert_allclose(metrics.volume_errors(counts, (10.0, 20.0, 40.0))["volume_error_ml"][1:3], [8, -8])
    with pytest.raises(UserError, match="expected a spacing of three positive numbers"):
        metrics.volume_errors(counts, (1.0, 1.0))
