"""Scores of BraTS on small maps whose values are known by hand, and against MONAI and MedPy on others."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, generate_binary_structure
from scipy.ndimage import label as numbered

from freqbench.core.errors import UserError
from freqbench.metrics import brats_scores, lesion_scores

Array = np.ndarray[Any, Any]
Box = tuple[int, int]
SHAPE = (40, 12, 12)
MM = (1.0, 1.0, 1.0)
# boxes along the first axis
BIG = (2, 8)
OTHER = (22, 28)
FAR = (34, 38)


def boxes(*ranges: Box, side: int = 4) -> Array:
    classes = np.zeros(SHAPE, np.uint8)
    for low, high in ranges:
        classes[low:high, 4 : 4 + side, 4 : 4 + side] = 1
    return classes


def lesions(pred: Array, label: Array, spacing: tuple[float, float, float] = MM) -> tuple[float, ...]:
    columns = lesion_scores(pred, label, 2, spacing)
    assert all(math.isnan(values[0]) for values in columns.values())
    return tuple(float(values[1]) for values in columns.values())


@pytest.mark.parametrize(
    ("pred", "label", "dice", "distance"),
    [([], [], 1, 0), ([BIG], [], 0, 374), ([], [BIG], 0, 374), ([BIG], [BIG], 1, 0), ([(4, 8)], [(2, 6)], 0.5, 2)],
)
def test_empty_regions_have_values_of_brats(pred: list[Box], label: list[Box], dice: float, distance: float) -> None:
    columns = brats_scores(boxes(*pred), boxes(*label), 2, MM)
    assert [float(values[1]) for values in columns.values()] == pytest.approx([dice, distance])
    assert all(math.isnan(values[0]) for values in columns.values())


def test_regions_that_both_maps_have_are_scored_as_monai_does() -> None:
    from monai.metrics import compute_dice, compute_hausdorff_distance

    rng = np.random.default_rng(0)
    spacing = (1.0, 2.0, 1.5)
    maps = [rng.integers(0, 3, (9, 8, 7)) for _ in range(2)]
    one_hot = [torch.nn.functional.one_hot(torch.from_numpy(each), 3).movedim(-1, 0)[None].float() for each in maps]
    columns = brats_scores(*maps, 3, spacing)
    expected = compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing)[0].numpy()
    assert columns["hd95_brats_mm"][1:] == pytest.approx(expected, abs=1e-5)
    assert columns["dsc_brats"][1:] == pytest.approx(compute_dice(*one_hot, include_background=False)[0].numpy())


@pytest.mark.parametrize(
    ("pred", "label", "expected"),
    [
        ([], [], (1, 0, 0, 0)),
        ([BIG], [BIG], (1, 0, 0, 0)),
        ([BIG], [BIG, OTHER], (1 / 2, 374 / 2, 1, 0)),
        ([BIG, OTHER, FAR], [BIG], (1 / 3, 2 * 374 / 3, 0, 2)),
        ([], [BIG], (0, 374, 1, 0)),
        ([BIG], [], (0, 374, 0, 1)),
    ],
    ids=["nothing", "equal", "one missed", "two false", "all missed", "all false"],
)
def test_missed_and_false_have_0_and_penalty(pred: list[Box], label: list[Box], expected: tuple[float, ...]) -> None:
    assert lesions(boxes(*pred), boxes(*label)) == pytest.approx(expected)


@pytest.mark.parametrize(("gap", "missed"), [(6, 0), (7, 1)])
def test_parts_whose_dilations_meet_are_one_lesion(gap: int, missed: int) -> None:
    label = boxes(BIG, (8 + gap, 14 + gap))
    pred = boxes(BIG)
    dice = 2 / 3 if gap == 6 else 1 / 2  # half of one lesion, or one lesion of two
    scores = lesions(pred, label)
    assert (scores[0], *scores[2:]) == pytest.approx((dice, missed, 0))


@pytest.mark.parametrize(("low", "false"), [(10, 0), (11, 1)])
def test_components_in_reach_of_dilation_are_matched_together(low: int, false: int) -> None:
    """A lesion is at 2 to 7, its dilation ends at 10; a second component of 2 x 16 voxels stands at or beyond it."""
    scores = lesions(boxes(BIG, (low, low + 2)), boxes(BIG))
    dice = 1 / 2 if false else 2 * 96 / (96 + 32 + 96)
    assert (scores[0], scores[3]) == pytest.approx((dice, false))


def test_components_may_be_matched_to_two_lesions() -> None:
    dice, _, missed, false = lesions(boxes((2, 28)), boxes(BIG, OTHER))
    assert (dice, missed, false) == (pytest.approx(2 * 96 / (26 * 16 + 96)), 0, 0)


@pytest.mark.parametrize(
    ("voxels", "false"), [([9], 0), ([10], 1), ([8, 9, 10, 11], 0)], ids=["in reach", "out of reach", "a diagonal"]
)
def test_dilation_takes_edges_and_components_take_corners(voxels: list[int], false: int) -> None:
    """Single voxels on the diagonal from the lesion's corner at 7, 7, 7."""
    pred = boxes(BIG)
    pred[voxels, voxels, voxels] = 1
    assert lesions(pred, boxes(BIG))[3] == false


@pytest.mark.parametrize(
    ("spacing", "counts"), [(MM, False), ((1.0, 1.0, 1.1), True)], ids=["of 50 mm^3", "of 55 mm^3"]
)
def test_small_lesions_do_not_count_nor_what_touches_them(spacing: tuple[float, float, float], counts: bool) -> None:
    label = boxes((2, 4), side=5)
    assert (label.sum(), lesions(np.zeros_like(label), label, spacing)[2]) == (50, counts)
    assert lesions(boxes((4, 6)), label, spacing)[3] == 0
    assert (lesions(boxes((4, 6)), label, spacing)[0] == 1) != counts


def scattered(seed: int) -> Array:
    """Blocks of 8 to 64 voxels, some near each other, and single voxels."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((60, 48, 24), np.uint8)
    for _ in range(9):
        x, y, z = rng.integers(0, (56, 44, 20))
        side = rng.integers(2, 5)
        classes[x : x + side, y : y + side, z : z + side] = 1
    return classes


def test_scattered_lesions_have_scores_by_monai_and_medpy() -> None:
    """The definition step by step, each lesion on the whole grid."""
    from medpy.metric.binary import dc
    from monai.metrics import compute_hausdorff_distance

    label = scattered(0)
    spacing = (1.0, 2.0, 1.5)
    corners = np.ones((3, 3, 3))
    pred = np.maximum(np.roll(label[:, :30], 1, 0), scattered(1)[:, :30])
    pred = np.pad(pred, ((0, 0), (0, 18), (0, 0)))
    near = generate_binary_structure(3, 2)
    zones, parts = (numbered(each, corners)[0] for each in (binary_dilation(label, near, iterations=3), pred))
    dice = []
    distances = []
    missed = 0
    is_found = np.zeros(parts.max() + 1, bool)
    for zone in range(1, zones.max() + 1):
        lesion = (label == 1) & (zones == zone)
        touched = np.setdiff1d(parts[binary_dilation(lesion, near, iterations=3)], [0])
        is_found[touched] = True
        if lesion.sum() * 3 > 50:
            matched = np.isin(parts, touched)
            missed += not matched.any()
            dice.append(dc(matched, lesion) if matched.any() else 0)
            masks = [torch.from_numpy(mask)[None, None] for mask in (matched, lesion)]
            distance = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing)
            distances.append(float(distance) if matched.any() else 374)
    false = int((~is_found[1:]).sum())
    total = len(dice) + false
    assert min(false, missed, len(dice) - missed) > 0
    expected = (sum(dice) / total, (sum(distances) + 374 * false) / total, missed, false)
    assert lesions(pred, label, spacing) == pytest.approx(expected, rel=1e-6)


def test_bad_input_is_refused() -> None:
    for scores in (brats_scores, lesion_scores):
        with pytest.raises(UserError, match="expected two volumes of one shape"):
            scores(np.ones((3, 3, 3), int), np.ones((3, 3, 4), int), 2, MM)
        with pytest.raises(UserError, match="expected a spacing of three positive numbers"):
            scores(np.ones((3, 3, 3), int), np.ones((3, 3, 3), int), 2, (1, 0, 1))
