"""The phantom: reproducible patients in which every organ can be found."""

import numpy as np
import pytest
import torch

from freqbench.core.errors import DataError
from freqbench.core.types import Case
from freqbench.data.loaders.anatomy import scanner_noise
from freqbench.data.loaders.phantom import REVISION, Phantom

from .conftest import first_case, first_key


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    phantom = Phantom(name="phantom", cases=("phantom_2000", "phantom_2003"))
    return [phantom.load(ref) for ref in phantom.refs()]


def test_case_depends_on_its_number_alone(cases: list[Case]) -> None:
    phantom = Phantom(name="other", cases=("phantom_2003",))
    torch_before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    case = first_case(phantom)
    assert torch.equal(case.image, cases[1].image)
    assert torch.equal(case.label, cases[1].label)
    assert torch.equal(torch_before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()


@pytest.mark.parametrize(("split", "every"), [("train", 8), ("validation", 1)])
def test_every_organ_is_in_every_case(split: str, every: int) -> None:
    phantom = Phantom(name="phantom")
    for ref in phantom.refs(split)[::every]:
        counts = np.bincount(phantom.load(ref).label.flatten().numpy(), minlength=6)
        assert counts.shape == (6,)
        assert counts.min() >= 60, ref.case_id


def test_volume_is_what_a_case_promises(cases: list[Case]) -> None:
    case = cases[0]
    assert case.image.shape == case.label.shape == (1, 80, 64, 32)
    assert (case.image.dtype, case.label.dtype) == (torch.float32, torch.uint8)
    assert (case.image.min(), case.image.max()) == (0, 1)
    assert case.native_ranges == ((-175, 250),)
    assert case.spacing == case.original_spacing == (4, 4, 6)


def test_liver_lies_to_the_patients_right_and_spine_to_the_back(cases: list[Case]) -> None:
    """The affine is RAS+ about the centre of the field of view: x grows to the right, y to the front."""
    case = cases[0]
    liver = case.affine @ [*torch.nonzero(case.label[0] == 1).double().mean(0).tolist(), 1]
    bone = case.affine @ [*torch.nonzero(case.image[0, 30:50] > 0.95).double().mean(0).add(torch.tensor([30, 0, 0])), 1]
    assert liver[0] > 20
    assert bone[1] < -20
    assert np.allclose(case.affine @ [39.5, 31.5, 15.5, 1], [0, 0, 0, 1])


def test_shape_changes_grid_and_recipe_but_not_patient() -> None:
    coarse = Phantom(name="p", shape=(40, 32, 16))
    fine = Phantom(name="p")
    case = first_case(coarse)
    assert case.image.shape == (1, 40, 32, 16)
    assert case.spacing == (8, 8, 12)
    assert coarse.refs()[0].fingerprint == fine.refs()[0].fingerprint
    assert first_key(coarse) != first_key(fine)


def test_noise_has_the_measured_power_spectrum() -> None:
    """Power at 0.5 to 3 line pairs per cm as a share of its peak; slices of 3 mm, 2 mm apart, share a third."""
    noise = scanner_noise(np.random.default_rng(0), (160, 160, 64))
    assert noise.std() == pytest.approx(1, abs=1e-3)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(160, 0.15)] * 2))
    power = (np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2).mean(axis=2)
    shares = [power[np.abs(frequency - at) < 0.1].mean() for at in (0.5, 1, 1.5, 2, 2.5, 3)]
    peak = power[np.abs(frequency - 2.6) < 0.15].mean()
    assert np.divide(shares, peak) == pytest.approx([0.25, 0.48, 0.71, 0.90, 0.98, 0.96], abs=0.04)
    neighbours = [float(np.mean(noise[..., step:] * noise[..., :-step])) for step in (1, 2)]
    assert neighbours == pytest.approx([1 / 3, 0], abs=0.04)


def test_an_unknown_split_is_refused() -> None:
    known = r"^phantom: unknown split 'testing'\. Did you mean 'test'\? Known: test, train, "
    with pytest.raises(DataError, match=known):
        Phantom(name="phantom", split="testing").refs()


def test_drawing_is_that_of_its_revision(cases: list[Case]) -> None:
    """The zoo's networks and stored records mean revision 2: whoever changes the drawing raises REVISION and these."""
    case = cases[0]
    counts = np.bincount(case.label.flatten().numpy())
    means = [float(case.image[case.label == index].mean()) for index in range(6)]
    assert (REVISION, counts) == (2, pytest.approx([149632, 9778, 1463, 2016, 616, 335], abs=3))
    assert means == pytest.approx([0.1777, 0.6451, 0.6286, 0.7302, 0.6667, 0.4564], abs=2e-4)
