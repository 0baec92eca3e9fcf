"""Components and Betti numbers against MONAI, scikit-image and shapes whose numbers are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import label as numbered
from skimage.measure import euler_number

from freqbench.core.errors import UserError
from freqbench.metrics import betti_errors, component_f1
from freqbench.metrics.components import betti_numbers

Array = np.ndarray[Any, Any]


def speckled(seed: int, moved: bool) -> Array:
    """Blocks of two classes in single false voxels; `moved`: some of the blocks stand elsewhere."""
    rng = np.random.default_rng(seed)
    places = np.random.default_rng(99)
    classes = (rng.random((24, 22, 20)) < 0.01).astype(np.uint8)
    for number in range(8):
        x, y, z = places.integers(0, (17, 18, 17))
        x += number % 3 if moved else 0
        classes[x : x + 4, y : y + 4, z : z + 3] = 1 + number % 2
    return classes


@pytest.mark.parametrize("seed", range(3))
def test_component_f1_is_monai_s_recognition_quality(seed: int) -> None:
    from monai.metrics import compute_panoptic_quality

    pred = speckled(seed, moved=True)
    true = speckled(seed + 10, moved=False)
    scores = component_f1(pred, true, 3)
    for number in (1, 2):
        instances = [torch.from_numpy(numbered(each == number, np.ones((3, 3, 3)))[0]) for each in (pred, true)]
        expected = compute_panoptic_quality(*instances, metric_name="rq", smooth_numerator=1e-12)
        assert scores[number] == pytest.approx(float(expected), rel=1e-6)
    assert 0 < scores[1] < 1
    assert math.isnan(scores[0])


def test_component_is_found_above_half_of_the_union() -> None:
    label, pred = np.zeros((2, 30, 4, 4), np.uint8)
    label[0:3, 0, 0] = label[6:9, 0, 0] = label[12:14, 0, 0] = label[20, 2, 2] = 1
    pred[0:3, 0, 0] = pred[7:9, 0, 0] = pred[12, 0, 0] = 1  # all of it, two of three, one of two
    pred[25, 0, 0] = pred[27, 0, 0] = 1
    assert component_f1(pred, label, 2)[1] == pytest.approx(2 * 2 / (5 + 4))


@pytest.mark.parametrize(
    ("in_pred", "in_label", "f1", "errors"),
    [(0, 0, math.nan, math.nan), (1, 0, math.nan, math.nan), (0, 1, 0.0, 1.0), (1, 1, 1.0, 0.0)],
)
def test_a_class_counts_where_the_label_has_it(in_pred: int, in_label: int, f1: float, errors: float) -> None:
    pred, label = np.zeros((2, 4, 4, 4), np.uint8)
    pred[0, 0, 0] = in_pred
    label[0, 0, 0] = in_label
    assert component_f1(pred, label, 2)[1] == pytest.approx(f1, nan_ok=True)
    assert betti_errors(pred, label, 2)["betti0_error"][1] == pytest.approx(errors, nan_ok=True)


def shell() -> Array:
    mask = np.ones((5, 5, 5), bool)
    mask[2, 2, 2] = False
    return mask


def ring() -> Array:
    mask = np.zeros((5, 5, 5), bool)
    mask[:, :, 2] = True
    mask[1:4, 1:4, 2] = False
    return mask


def handles() -> Array:
    """A slab with two holes and a ring beside it."""
    mask = np.zeros((5, 12, 9), bool)
    mask[:, :7, :3] = True
    mask[2, (2, 4), :3] = False
    mask[:, 7:, 4:] = ring()
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.zeros((3, 3, 3), bool), (0, 0, 0)),
        (np.ones((3, 3, 3), bool), (1, 0, 0)),
        (shell(), (1, 0, 1)),
        (ring(), (1, 1, 0)),
        (handles(), (2, 3, 0)),
        (np.eye(4, dtype=bool)[:, :, None], (1, 0, 0)),  # neighbours by their edges
        (np.array([1, 0, 1, 0, 1], bool).reshape(5, 1, 1), (3, 0, 0)),
    ],
    ids=["nothing", "the whole volume", "a shell", "a ring", "two holes and a ring", "a diagonal", "three voxels"],
)
def test_betti_numbers_of_shapes_that_are_known(mask: Array, expected: tuple[int, int, int]) -> None:
    assert tuple(betti_numbers(mask)) == expected


def test_betti_numbers_add_up_to_skimages_euler_number() -> None:
    for share in (0.05, 0.3, 0.7, 0.95):
        mask = np.random.default_rng(0).random((14, 13, 12)) < share
        components, tunnels, cavities = betti_numbers(mask)
        assert components - tunnels + cavities == euler_number(mask, connectivity=3)
        assert min(components, tunnels, cavities) >= 0


def test_topology_errors_are_differences_of_each_class() -> None:
    label, pred = np.zeros((2, 12, 6, 6), np.uint8)
    label[:5, :5, :5][shell()] = 1
    pred[:5, :5, :5][ring()] = 1
    pred[8, 0, 0] = pred[10, 0, 0] = label[8, 0, 0] = 2
    errors = betti_errors(pred, label, 4)
    assert [list(errors[f"betti{dimension}_error"][1:3]) for dimension in range(3)] == [[0, 1], [1, 0], [1, 0]]
    assert math.isnan(errors["betti0_error"][3])


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="expected two volumes of one shape"):
        component_f1(np.ones((3, 3, 3), int), np.ones((3, 3, 4), int), 2)
    with pytest.raises(UserError, match="expected classes 0 to 1"):
        betti_errors(np.full((3, 3, 3), 2), np.ones((3, 3, 3), int), 2)
