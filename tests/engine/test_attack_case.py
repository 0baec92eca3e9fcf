"""A volume is attacked window by window from common random numbers."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from engine.cases import Threshold, case_of, volume
from torch import Tensor

from freqbench.attacks import Attack, make
from freqbench.attacks.core.task import Task
from freqbench.core.identity import window_generator
from freqbench.core.types import Case, Shape
from freqbench.engine.attacking import Needs, attack_case
from freqbench.models import SegmentationModel, build

ROI: Shape = (8, 8, 4)


def make_case(shape: Shape = (12, 8, 4), fingerprint: str = "case") -> Case:
    image = volume(shape)
    return case_of(image, image > 0.5, fingerprint)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return SegmentationModel(Threshold(), ROI).eval()


@pytest.fixture(scope="module")
def unet() -> SegmentationModel:
    net = build("unet", 2, ROI, {"channels": [4, 8], "strides": [2], "num_res_units": 0}, seed=0)
    return SegmentationModel(net.requires_grad_(False), ROI).eval()


@dataclass(frozen=True, kw_only=True)
class Paint(Attack):
    """Every window of a call gets its sample's number in the call, as a grey level."""

    name: ClassVar[str] = "paint"
    threat_model: ClassVar[str] = "none"
    budget_name: ClassVar[str] = "level"
    level: float = 0.0

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 0

    def perturb(self, task: Task) -> Tensor:
        return task.draw(lambda shape, **kind: torch.rand(1, **kind).expand(shape)).clone()


one_and_three_windows = pytest.mark.parametrize("window_batch", [1, 3])


@one_and_three_windows
def test_later_window_overwrites_overlap_with_earlier_one(model: SegmentationModel, window_batch: int) -> None:
    """Windows on the first axis are 0:8 and 4:12, on the second 0:8 and 2:10."""
    case = make_case((12, 10, 4))
    painted = attack_case(Paint(), model, case, 0, window_batch).adversarial
    generators = (window_generator(0, case.ref.fingerprint, i) for i in range(4))
    a, b, c, d = (float(torch.rand(1, generator=each)) for each in generators)
    expected = torch.empty(12, 10)
    expected[:4, :2] = a
    expected[:4, 2:] = b
    expected[4:, :2] = c
    expected[4:, 2:] = d
    assert torch.equal(painted[0], expected[:, :, None].expand(-1, -1, 4))


def test_a_volume_smaller_than_the_roi_is_attacked_as_it_is(unet: SegmentationModel) -> None:
    case = make_case((6, 5, 3))
    attacked = attack_case(make("fgsm", eps=0.1), unet, case, None, 1)
    assert attacked.adversarial.shape == case.image.shape
    moved = (attacked.adversarial - case.image).abs()
    assert moved.max() == pytest.approx(0.1, abs=1e-6)
    assert (moved > 0).double().mean() > 0.95, "all voxels have a gradient, not only a corner"


def test_passes_are_those_that_each_window_took(unet: SegmentationModel) -> None:
    """Some of the six windows of a case fall to the first member and some do not: at once or one by one."""
    members = ("apgd-ce", "square")
    attack = make("autoattack", eps=0.03, steps=3, queries=5, threshold=0.4, members=members, scope="window")
    counts = []
    for batch in (1, 6):
        attacked = attack_case(attack, unet, make_case((24, 16, 4)), 0, batch)
        counts.append((attacked.facts.num_forwards, attacked.facts.num_backwards))
    assert counts[0] == counts[1]
    assert 6 * 5 < counts[0][0] < 6 * attack.passes[0]
    assert counts[0][1] == 6 * 3


def noise(model: SegmentationModel, case: Case, seed: int = 0, std: float = 0.01, batch: int = 1) -> Tensor:
    """The standard normals that Gaussian noise has drawn, by window along the first axis."""
    attacked = attack_case(make("gn", std=std), model, case, seed, batch).adversarial
    return ((attacked - case.image) / std).reshape(-1, *ROI)


TWO_WINDOWS: Shape = (16, 8, 4)


def test_draws_are_the_window_generators(model: SegmentationModel, unet: SegmentationModel) -> None:
    case = make_case(TWO_WINDOWS)
    for fingerprint, seed in (("case", 0), ("case", 3), ("other", 3)):
        own = replace(case, ref=replace(case.ref, fingerprint=fingerprint))
        for number, drawn in enumerate(noise(model, own, seed=seed)):
            expected = torch.randn((1, *ROI), generator=window_generator(seed, fingerprint, number))[0]
            assert torch.allclose(drawn, expected, atol=1e-3)
    for net, other in ((model, {"std": 0.02}), (model, {"batch": 2}), (unet, {})):
        assert torch.allclose(noise(model, case), noise(net, case, **other), atol=1e-3)


def test_pgd_starts_at_same_point_of_ball_whatever_its_radius(model: SegmentationModel) -> None:
    """A step of almost nothing leaves the start: eps times a draw."""
    case = make_case()
    starts = [
        (attack_case(make("pgd", eps=eps, steps=1, step_size=1e-9), model, case, 0, 1).adversarial - case.image) / eps
        for eps in (0.01, 0.1)
    ]
    assert torch.allclose(*starts, atol=1e-4)


@dataclass(frozen=True, kw_only=True)
class Echo(Paint):
    """Every window becomes its reference."""

    name: ClassVar[str] = "echo"
    needs_reference: ClassVar[bool] = True

    def perturb(self, task: Task) -> Tensor:
        return task.given.reference.clone()


@one_and_three_windows
@pytest.mark.parametrize("shape", [(7, 21, 3), (1, 5, 9)])
def test_reference_is_cut_into_its_windows(model: SegmentationModel, shape: Shape, window_batch: int) -> None:
    """Corners on corners, linearly between: as numpy interpolates, one axis after the other."""
    reference = make_case(shape, "other")
    volume = attack_case(Echo(), model, make_case((12, 10, 4)), 0, window_batch, Needs(reference=reference)).adversarial
    expected = reference.image[0].double().numpy()
    for axis, (size, wanted) in enumerate(zip(shape, (12, 10, 4), strict=True)):
        at = np.linspace(0, size - 1, wanted)
        expected = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, expected)
    assert np.allclose(volume[0].numpy(), expected, atol=1e-6)


# Two channels: windows, references and scores have both, labels one
CUBE: Shape = (8, 8, 8)


def two_channels(seed: int) -> Case:
    image = volume((12, 10, 8), 2, seed)
    return case_of(image, image.sum(dim=0, keepdim=True) > 1)


@pytest.fixture(scope="module")
def summing() -> SegmentationModel:
    return SegmentationModel(Threshold(1.0), CUBE).eval()


@pytest.fixture(scope="module")
def two() -> Case:
    return two_channels(0)


@pytest.mark.parametrize("scope", ["window", "volume"])
@pytest.mark.parametrize(("channels", "reach"), [(None, 0.2), ((1,), 0.1)])
def test_fgsm_flips_exactly_what_is_within_reach_of_the_channels(
    summing: SegmentationModel, two: Case, scope: str, channels: tuple[int, ...] | None, reach: float
) -> None:
    attacked = attack_case(make("fgsm", eps=0.1, channels=channels, scope=scope), summing, two, None, 3)
    total = attacked.adversarial.sum(0)
    clean = two.image.sum(0)
    assert torch.equal((total > 1) != (clean > 1), (clean - 1).abs() < reach)
    assert torch.equal(attacked.adversarial[0], two.image[0]) == (channels is not None)


def test_a_reference_has_its_channels(summing: SegmentationModel, two: Case) -> None:
    """Two references lead to two volumes, in the channel that is attacked."""
    attack = make("faa", portion=1.0, bands=2, steps=1, channels=1, reconstruction_weight=0.0)
    one, other = (attack_case(attack, summing, two, 0, 4, Needs(reference=two_channels(s))).adversarial for s in (1, 2))
    assert not torch.equal(one[1], other[1])
    assert torch.equal(one[0], two.image[0])
