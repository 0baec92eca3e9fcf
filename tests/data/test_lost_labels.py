"""Label voxels that crop, spacing and size remove: what is lost, how much of it, and at which step."""

from typing import Any

import numpy as np
import pytest

from freqbench.core.input_space import Preprocess
from freqbench.core.types import NativeCase
from freqbench.data import prepare
from freqbench.ops.classes import Classes

from .downloads import native_case

SHAPE = (20, 24, 16)
NAMES = ("background", "organ", "lesion", "rim")


def native(label: Any, air: Any = ()) -> NativeCase:
    """A case of 1 mm with intensities of 100 to 200, and of -1000 in the slices `air` of the first axis."""
    image = np.random.default_rng(0).uniform(100, 200, SHAPE).astype(np.float32)
    image[list(air)] = -1000
    return native_case(image, label, affine=np.diag([-1.0, 1, 1, 1]))


def labelled(**boxes: tuple[slice, slice, slice]) -> Any:
    label = np.zeros(SHAPE, np.uint8)
    for name, box in boxes.items():
        label[box] = NAMES.index(name)
    return label


def lost(case: NativeCase, **space: Any) -> tuple[str, ...]:
    return prepare(case, Preprocess(intensity={"window": (0, 250)}, **space), classes=Classes(names=NAMES)).lost


BIG = np.s_[6:16, 4:20, 3:13]


@pytest.mark.parametrize(
    ("label", "air", "space", "line"),
    [
        (
            labelled(organ=BIG, rim=np.s_[0:3, 4:8, 2:6]),
            range(4),
            {},
            "48 of 48 voxels of `rim` lie outside the crop to intensities above the lower bound",
        ),
        (
            labelled(organ=BIG, rim=np.s_[0:5, 4:8, 2:6]),
            range(4),
            {},
            "64 of 80 voxels of `rim` lie outside the crop to intensities above the lower bound",
        ),
        (
            labelled(organ=BIG, lesion=np.s_[7:8, 5:7, 4:5]),
            (),
            {"spacing": (3, 3, 3)},
            "2 of 2 voxels of `lesion` vanish at the spacing 3 x 3 x 3 mm",
        ),
        (
            labelled(organ=BIG, rim=np.s_[0:2, 0:4, 0:4]),
            (),
            {"size": (16, 16, 16)},
            "32 of 32 voxels of `rim` lie outside the size 16 x 16 x 16",
        ),
        (
            labelled(organ=BIG, lesion=np.s_[7:8, 5:6, 4:5]),
            (),
            {"spacing": (4, 4, 4), "resampling": "nnunet"},
            "1 of 1 voxels of `lesion` vanish at the spacing 4 x 4 x 4 mm",
        ),
    ],
)
def test_a_class_that_is_lost_is_said_with_its_step(label: Any, air: Any, space: dict[str, Any], line: str) -> None:
    assert lost(native(label, air), **space) == (f"label voxels are lost: {line}",)


@pytest.mark.parametrize(
    ("label", "air", "space"),
    [
        (labelled(organ=BIG), range(4), {}),
        (labelled(organ=BIG, rim=np.s_[2:8, 4:8, 2:6]), range(4), {}),  # a third of it
        (labelled(organ=BIG), (), {"spacing": (2.5, 1.5, 0.8), "pad_to": (32, 32, 32)}),
        (labelled(organ=BIG), range(4), {"crop_foreground": False}),
        (labelled(), range(4), {}),
        (np.full(SHAPE, 255, np.uint8), range(4), {}),  # nobody drew it
    ],
)
def test_a_class_that_stays_has_no_line(label: Any, air: Any, space: dict[str, Any]) -> None:
    assert lost(native(label, air), **space) == ()


@pytest.mark.parametrize(
    ("space", "inner"),
    [
        ({}, ((0, 16), (0, 24), (0, 16))),
        ({"pad_to": (20, 24, 32)}, ((2, 18), (0, 24), (8, 24))),
        ({"size": (30, 10, 16), "crop_foreground": False}, ((5, 25), (0, 10), (0, 16))),
        ({"spacing": (1, 1, 1), "resampling": "nnunet", "pad_to": (24, 1, 1)}, ((2, 22), (0, 24), (0, 16))),
    ],
)
def test_padding_is_told_from_the_file(space: dict[str, Any], inner: Any) -> None:
    case = prepare(native(labelled(organ=BIG), range(4)), Preprocess(intensity={"window": (0, 250)}, **space))
    assert case.inner == inner
