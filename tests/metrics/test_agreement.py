"""Agreement of two label maps of one network, and the pattern that a difference has."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from freqbench.metrics.agreement import agreement, exchange, pattern, renumber, share
from freqbench.ops.classes import Classes

Labels = npt.NDArray[np.uint8]
CLASSES = Classes(names=("background", "liver", "spleen", "kidney"))
REGIONS = Classes(names=("none", "core", "whole", "enhancing"), overlap=True)


@pytest.fixture
def theirs() -> Labels:
    """Three boxes of different sizes that no symmetry maps onto themselves."""
    made = np.zeros((20, 18, 16), np.uint8)
    made[3:11, 2:9, 4:12] = 1
    made[12:16, 10:15, 3:7] = 2
    made[13:15, 3:5, 10:13] = 3
    return made


def test_the_share_is_of_the_union_of_both_foregrounds() -> None:
    ours = np.array([0, 1, 1, 2, 0, 0], np.uint8)
    theirs = np.array([0, 1, 2, 2, 2, 0], np.uint8)
    assert agreement(ours, theirs) == (2, 4)
    assert share(np.zeros(3, np.uint8), np.zeros(3, np.uint8)) == 1.0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda labels: np.zeros_like(labels), "it predicts nothing"),
        (lambda labels: renumber(labels, {1: 2, 2: 1, 3: 3}, CLASSES), "the classes liver, spleen are exchanged"),
        (lambda labels: labels[::-1], "it is mirrored along I of the file"),
        (lambda labels: labels[:, ::-1, ::-1], "it is mirrored along JK of the file"),
        (lambda labels: np.roll(labels, (2, 0, -1), (0, 1, 2)), "it is shifted by 2, 0, -1 voxels of the file"),
        (lambda labels: np.where(labels == 3, 0, labels), "it differs in kidney alone"),
        (lambda labels: np.maximum(labels, np.roll(labels, 1, 2)), "it differs at the borders of classes"),
        (lambda labels: np.random.default_rng(0).permutation(labels), "it differs everywhere"),
    ],
)
def test_a_difference_is_told_by_its_pattern(change: Callable[[Labels], Labels], what: str, theirs: Labels) -> None:
    assert pattern(change(theirs).astype(np.uint8), theirs, CLASSES).what == what


def test_exchanged_axes_are_told_where_the_shape_allows_them() -> None:
    theirs = np.zeros((12, 12, 8), np.uint8)
    theirs[2:9, 1:4, 2:7] = 1
    assert pattern(theirs.transpose(1, 0, 2), theirs, CLASSES).what == "it has other axes"


def test_regions_are_exchanged_bit_by_bit() -> None:
    theirs = np.zeros((8, 8, 8), np.uint8)
    theirs[1:7, 1:7, 1:7] = 2
    theirs[2:6, 2:6, 2:6] = 3
    theirs[3:5, 3:5, 3:5] = 7
    ours = renumber(theirs, {1: 2, 2: 1, 3: 3}, REGIONS)
    assert exchange(ours, theirs, REGIONS) == {1: 2, 2: 1, 3: 3}
    assert pattern(ours, theirs, REGIONS).what == "the classes core, whole are exchanged"
    assert (renumber(ours, {1: 2, 2: 1, 3: 3}, REGIONS) == theirs).all()
