"""Intensities against the window: what is clipped of labels and body, and what honest volumes clip without a word."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import freqbench as fb
from freqbench.core.input_space import Preprocess
from freqbench.data.intensities import is_ct, scale_warnings
from freqbench.data.preprocess import prepare

from .downloads import native_case, put

Array = npt.NDArray[Any]
SHAPE = (30, 26, 20)
CT = {"window": (-160.0, 240.0)}


def ct(organs: dict[int, float], air: float = -1000) -> tuple[Array, Array]:
    """HU of a body of fat and muscle in air with noise, and of organs by their class."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij"))
    radius = (place**2).sum(axis=0)
    image = np.where(radius < 0.8, np.where(radius < 0.6, 45.0, -95.0), air)
    label = np.zeros(SHAPE, np.uint8)
    for k, value in organs.items():
        centre = 0.4 * np.array([np.cos(2 * k), np.sin(2 * k), 0])[:, None, None, None]
        where = ((place - centre) ** 2).sum(axis=0) < 0.04
        image[where] = value
        label[where] = k
    return image + rng.normal(0, 12, SHAPE), label


def lines(image: Array, label: Array, intensity: Any = CT, labelled: bool = True) -> list[str]:
    case = native_case(image, label if labelled else np.full_like(label, 255))
    return [*scale_warnings(case, Preprocess(intensity=intensity))]


SOFT = {1: 60.0, 2: 110.0}


with_and_without_labels = pytest.mark.parametrize("labelled", [True, False])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda hu: hu + 1024, "subtract 1024"),
        (lambda hu: np.clip(hu + 1000, 0, None), "subtract 1024"),
        (lambda hu: hu + 2048, "an offset seems to be added"),
        (lambda hu: hu + 520, "give the files' own window"),
        (lambda hu: hu - 1024, "give the files' own window"),
        (lambda hu: 12 * hu, "give the files' own window"),
        (lambda hu: hu / 1000, "give the files' own window"),
        (lambda hu: np.clip((hu + 160) / 400, 0, 1), "scaled to [0, 1] already"),
        (lambda hu: np.clip(np.rint(255 * (hu + 160) / 400), 0, 255), "an 8-bit picture"),
        (lambda hu: -hu, "an inverted volume"),
        (lambda hu: np.rint(hu) % 65536, "stored without a sign"),
    ],
)
@with_and_without_labels
def test_another_unit_is_said_with_its_cause(change: Any, cause: str, labelled: bool) -> None:
    image, label = ct(SOFT)
    if labelled or "inverted" not in cause:
        (line,) = lines(change(image), label, labelled=labelled)
        assert line.startswith("expected intensities on the scale of the window [-160, 240], got ")
        assert cause in line
    (line,) = lines(image + 1024, label)  # two classes above the window
    assert "100% of labelled voxels clipped to 1, 0% to 0" in line


@pytest.mark.parametrize(
    "organs",
    [SOFT, {1: -980.0}, {1: 700.0, 2: 900.0}, {1: -960.0, 2: 800.0}, {1: 60.0, 2: 380.0}],
    ids=["soft tissue", "airways", "bones", "airways and bones", "a vessel with contrast agent"],
)
@with_and_without_labels
def test_an_honest_ct_is_not_suspected(organs: dict[int, float], labelled: bool) -> None:
    assert lines(*ct(organs), labelled=labelled) == []


@pytest.mark.parametrize(
    ("shift", "intensity", "expected"),
    [(0, CT, True), (1024, CT, False), (1000, {"window": (0.0, 2000.0)}, False), (0, "percentile", False)],
)
def test_a_file_is_in_hu_where_a_window_of_hu_fits(shift: float, intensity: Any, expected: bool) -> None:
    image, label = ct(SOFT)
    space = Preprocess(intensity=intensity)
    assert is_ct(prepare(native_case(image + shift, label), space), space) is expected


def test_plain_bones_and_lungs_are_not_suspected() -> None:
    """The brighter half without air are the bones, all of them clipped; the darker half, in the window, is the body."""
    assert lines(*ct({1: 700.0, 2: 900.0}, air=-95)) == []
    assert lines(*ct({1: -870.0, 2: -860.0}), {"window": (-1350.0, -300.0)}) == []


@pytest.mark.parametrize(
    "intensity", [{"window": (0.0, 900.0)}, "percentile", "minmax", "zscore", {"percentile": (1, 99)}]
)
def test_an_honest_mr_is_not_suspected(intensity: Any) -> None:
    image, label = ct({1: 60.0, 2: 260.0})
    mr = np.abs(np.where(image < -500, 8 * (image + 1000) / 12, 2.2 * image + 350))
    assert lines(mr, label, intensity) == []


def test_a_case_of_files_warns_in_python(tmp_path: Path) -> None:
    image, label = ct(SOFT)
    put(tmp_path / "x.nii.gz", (image + 1024).astype(np.float32))
    put(tmp_path / "y.nii.gz", label)
    with pytest.warns(UserWarning, match=r"x\.nii\.gz: expected intensities on the scale of the window"):
        fb.Case.from_file(tmp_path / "x.nii.gz", tmp_path / "y.nii.gz", labels=3, intensity={"window": [-160, 240]})
