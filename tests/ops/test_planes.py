"""Slices, boxes and spectra against small arrays by hand."""

import numpy as np
import pytest

from freqbench.ops import planes
from freqbench.ops.planes import AXIAL, busiest, class_places, error_box, plane, radial_spectrum, span

SHAPE = (4, 5, 6)


@pytest.mark.parametrize(("axis", "index"), [(2, 5), (1, 4), (0, 3)])
def test_plane_has_right_anterior_and_superior_at_its_upper_left(axis: int, index: int) -> None:
    """Axial: anterior on top, the patient's right on the left; coronal: superior on top; sagittal: the front on the
    left."""
    volume = np.zeros(SHAPE)
    volume[3, 4, 5] = 1
    assert plane(volume, axis, index)[0, 0] == 1


def test_a_plane_is_as_high_as_its_upward_axis() -> None:
    assert [plane(np.zeros(SHAPE), axis, 0).shape for axis in range(3)] == [(6, 5), (6, 4), (5, 4)]
    assert [planes.aspect((1.0, 2.0, 6.0), axis) for axis in range(3)] == [3, 6, 2]


def test_the_busiest_slice_counts_all_volumes_and_no_sign() -> None:
    first, second = np.zeros(SHAPE), np.zeros(SHAPE)
    first[0, 0, 1], second[1, 1, 4], second[2, 2, 4] = 1.5, 1, -1
    assert busiest([first], AXIAL) == 1
    assert busiest([first, second], AXIAL) == 4


def test_the_box_is_around_the_largest_connected_error() -> None:
    truth = np.zeros((20, 30), np.uint8)
    pred = truth.copy()
    pred[2, 3] = 1  # alone
    pred[10:12, 20], pred[12, 21] = 1, 2  # three, the last by a corner
    assert error_box(pred, truth) == (18, 8, 6, 7)
    assert error_box(truth, truth) is None
    assert error_box(truth + 1, truth) == (0, 0, 30, 20)  # it stays inside


def test_a_class_s_number_lies_inside_its_largest_part() -> None:
    mask = np.zeros((12, 16), np.uint8)
    mask[1:10, 1:10] = 3
    mask[3:8, 3:10] = 0  # what is left is a C, two voxels thick: its centre of mass is outside
    mask[4:7, 12:15] = 3  # smaller, but its middle is further from its edge
    ((index, row, column),) = class_places(mask)
    assert (index, mask[int(row), int(column)]) == (3, 3)
    assert column < 10


def test_the_scale_is_above_nothing() -> None:
    assert span([np.zeros(9)]) == 1
    assert span([np.full(9, -0.5), np.zeros(9)]) == pytest.approx(0.5)


def test_white_noise_has_a_flat_spectrum() -> None:
    change = 0.1 * np.random.default_rng(0).standard_normal((40, 36, 32))
    frequencies, amplitudes = radial_spectrum(change, 8)
    assert frequencies[:2] == pytest.approx(np.sqrt(3) / 2 * np.array([0.5, 1.5]) / 8)
    np.testing.assert_allclose(amplitudes[1:], 0.1, rtol=0.05)


def test_a_shift_is_all_in_the_lowest_bin() -> None:
    """A shift by c has one coefficient, c times the root of the number of voxels."""
    change = np.full((8, 8, 8), 0.25)
    _, amplitudes = radial_spectrum(change, 4)
    squares = np.add.outer(np.add.outer(np.arange(8) ** 2, np.arange(8) ** 2), np.arange(8) ** 2) / 256
    count = int((np.sqrt(squares) < np.sqrt(3) / 8).sum())
    assert amplitudes == pytest.approx([0.25 * np.sqrt(512 / count), 0, 0, 0], abs=1e-6)
