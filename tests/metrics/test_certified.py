"""Dice of what is certified, counted by hand and by trying every prediction that a certificate allows."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from freqbench.metrics import certified_scores, dice


def row(*values: int) -> Tensor:
    return torch.tensor(values).reshape(1, 1, -1)


def test_what_abstains_is_a_class_that_is_never_right() -> None:
    """Class 1: 2 of its 4 voxels certified right, 1 certified elsewhere, 1 of the abstaining ones outside it."""
    label = row(1, 1, 1, 1, 0, 0, 0, 0)
    pred = row(1, 1, 1, 0, 1, 0, 1, 0)
    certified = row(1, 1, 0, 1, 1, 1, 0, 1).bool()
    scores = certified_scores(pred, certified, label, 2)
    assert scores["certified_share"] == 6 / 8
    assert scores["certified_dice"] == pytest.approx(2 * 2 / (3 + 4))
    assert scores["certified_dice_bound"] == pytest.approx(2 * 2 / (3 + 4 + 1))


def test_the_bound_is_the_lowest_dice_that_a_certificate_allows() -> None:
    """Of each class by itself, over every assignment of classes to the voxels that abstain."""
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


def test_without_foreground_there_is_no_dice() -> None:
    empty = torch.zeros(2, 2, 2, dtype=torch.uint8)
    scores = certified_scores(empty, empty.bool(), empty, 3)
    assert scores["certified_share"] == 0
    assert np.isnan(scores["certified_dice"])
    assert np.isnan(scores["certified_dice_bound"])
