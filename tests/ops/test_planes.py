"""Slices and scales against small arrays by hand."""

import numpy as np
import pytest

from freqbench.ops import planes
from freqbench.ops.planes import AXIAL, busiest, class_places, plane, span

SHAPE = (4, 5, 6)


@pytest.mark.parametrize(("axis", "index"), [(2, 5), (1, 4), (0, 3)])
def test_plane_has_right_anterior_and_superior_at_its_upper_left(axis: int, index: int) -> None:
    """Axial: anterior on top, the patient's right left; coronal: superior on top; sagittal: the front left."""
    volume = np.zeros(SHAPE)
    volume[3, 4, 5] = 1
    assert plane(volume, axis, index)[0, 0] == 1


def test_a_plane_is_as_high_as_its_upward_axis() -> None:
    assert [plane(np.zeros(SHAPE), axis, 0).shape for axis in range(3)] == [(6, 5), (6, 4), (5, 4)]
    assert [planes.aspect((1.0, 2.0, 6.0), axis) for axis in range(3)] == [3, 6, 2]


def test_the_busiest_slice_counts_without_a_sign() -> None:
    volume = np.zeros(SHAPE)
    volume[0, 0, 1] = 1.5
    volume[1, 1, 4] = 1
    volume[2, 2, 4] = -1
    assert busiest(volume, AXIAL) == 4


def test_a_class_s_number_lies_inside_its_largest_part() -> None:
    mask = np.zeros((12, 16), np.uint8)
    mask[1:10, 1:10] = 3
    mask[3:8, 3:10] = 0  # what is left is a C, two voxels thick: its centre of mass is outside
    mask[4:7, 12:15] = 3  # smaller, but its middle is further from its edge
    ((index, row, column),) = class_places(mask)
    assert (index, mask[int(row), int(column)]) == (3, 3)
    assert column < 10


def test_the_scale_is_above_nothing() -> None:
    assert (span(np.zeros(9)), span(np.repeat([-0.5, 0], 9))) == (1, pytest.approx(0.5))
