"""Volumes of a dataset class of one's own: kept as they are given, or prepared by the `space` that it states."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from third_party.own_classes import OWN, TRUST
from tiny_job import expanded, small
from torch import Tensor
from toy.data import Balls

from freqbench.core.errors import DataError
from freqbench.core.input_space import Preprocess
from freqbench.core.types import CaseRef, NativeCase
from freqbench.data import Dataset
from freqbench.data.base import AS_GIVEN
from freqbench.job.fit import space_notes


class Given(Balls):
    """Volumes between two intensities, in air, without a `space`."""

    space = Dataset.space
    ends: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def native(self, ref: CaseRef) -> NativeCase:
        case, (low, high) = super().native(ref), self.ends
        image = torch.full_like(case.image, low)
        image[:, 5:15, 4:16, 6:12] = low + (high - low) * case.image[:, 5:15, 4:16, 6:12] / 1.3
        return NativeCase(**{**vars(case), "image": image})


class Hounsfield(Given):
    """The same as of a CT."""

    ends = (-1000.0, 800.0)


class Windowed(Hounsfield):
    """The same with the window of its training."""

    @property
    def space(self) -> Preprocess:
        return Preprocess(intensity={"window": [-175, 250]}, crop_foreground=False)


def pair(cls: type[Balls], **settings: Any) -> tuple[Tensor, Tensor]:
    """The first volume as the class gives it, and as it is attacked."""
    dataset = cls(name="own", **settings)
    return dataset.native(dataset.refs()[0]).image, dataset.load(dataset.refs()[0]).image


def test_a_class_without_a_space_keeps_intensities_and_extent() -> None:
    given, attacked = pair(Given)
    assert attacked.shape == given.shape
    assert torch.equal(attacked, given)


def test_intensities_beyond_0_to_1_are_refused_without_a_space() -> None:
    expected = r"own: ball_0: expected intensities from 0 to 1 of a class that states no `space`, got -1000 to "
    with pytest.raises(DataError, match=expected):
        pair(Hounsfield)


def test_a_class_with_a_space_is_scaled_by_it_alone() -> None:
    given, attacked = pair(Windowed)
    np.testing.assert_allclose(attacked, (given.clamp(-175, 250) + 175) / 425, atol=1e-6)


def test_a_model_s_own_space_takes_the_place_of_a_missing_one() -> None:
    dataset = Hounsfield(name="own")
    own = Preprocess(intensity={"window": [-1000, 1000]}, crop_foreground=False)
    assert float(dataset.load(dataset.refs()[0], own).image.max()) <= 0.9


def test_way_of_keeping_volumes_is_in_the_key() -> None:
    given, windowed = (cls(name="own").whole_recipe() for cls in (Given, Windowed))
    assert given["space"] == AS_GIVEN.identity()
    assert "space" not in windowed


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Given, "states no `space`: its volumes, from 0 to 1, are neither scaled nor cropped"),
        (
            Windowed,
            "states what is done to its volumes, as `space`: intensity: {window: [-175.0, 250.0]}, "
            "crop_foreground: false, resampling: linear",
        ),
    ],
)
def test_the_note_says_what_is_done(cls: type[Balls], told: str) -> None:
    (note,) = space_notes(cls(name="own"))
    assert note == f"own: {cls.__module__}:{cls.__qualname__} {told}"


def test_plan_has_the_note() -> None:
    _, grid = expanded(small(**OWN, **TRUST))
    assert any("balls: toy.data:Balls states what is done to its volumes" in note for note in grid.notes)
