"""The mean Dice against freqbench.metrics, and by hand where it goes its own way."""

import numpy as np
import pytest
import torch
from torch import Tensor

from freqbench.metrics import dice
from freqbench.ops.losses import mean_dice


def random_task() -> tuple[Tensor, Tensor]:
    """Five classes, of which the first sample lacks class 3 and the second class 1."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(3, 5, 6, 5, 4, generator=generator)
    labels = torch.randint(0, 5, (3, 1, 6, 5, 4), generator=generator)
    labels[0][labels[0] == 3] = 0
    labels[1][labels[1] == 1] = 4
    return logits, labels


def by_metrics(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Dice of every sample and class; NaN where the labels lack the class."""
    pairs = zip(logits.argmax(1), labels[:, 0], strict=True)
    return np.stack([dice(pred, label, logits.shape[1]) for pred, label in pairs])


@pytest.mark.parametrize("classes", [None, (3,), (1, 3), (0, 4)], ids=str)
def test_is_the_mean_over_the_classes_that_the_labels_have(classes: tuple[int, ...] | None) -> None:
    logits, labels = random_task()
    table = by_metrics(logits, labels)[:, list(classes or (1, 2, 3, 4))]
    expected = [np.nanmean(row) if np.isfinite(row).any() else 0.0 for row in table]
    assert mean_dice(logits, labels, classes).tolist() == pytest.approx(expected, abs=1e-12)


def test_labels_without_foreground_have_the_share_of_voxels_that_are_right() -> None:
    logits, labels = random_task()
    labels[2] = 0
    expected = float((logits[2].argmax(0) == 0).double().mean())
    assert mean_dice(logits, labels)[2].item() == pytest.approx(expected, abs=1e-12)
