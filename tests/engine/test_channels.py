"""Cases of two channels: windows, references and scores have both, labels one."""

import math

import pytest
import torch
from engine.cases import Threshold, case_of, volume

from freqbench.attacks import make
from freqbench.core.types import Case, Shape
from freqbench.engine.attacking import attack_case
from freqbench.engine.scoring import score_volume
from freqbench.models import SegmentationModel

ROI: Shape = (8, 8, 8)
SHAPE: Shape = (12, 10, 8)  # 2 x 2 windows


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return SegmentationModel(Threshold(1.0), ROI).eval()


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(0)


def make_case(seed: int) -> Case:
    image = volume(SHAPE, 2, seed)
    return case_of(image, image.sum(dim=0, keepdim=True) > 1)


@pytest.mark.parametrize("scope", ["window", "volume"])
@pytest.mark.parametrize(("channels", "reach"), [(None, 0.2), ((1,), 0.1)])
def test_fgsm_flips_exactly_what_is_within_reach_of_the_channels(
    model: SegmentationModel, case: Case, scope: str, channels: tuple[int, ...] | None, reach: float
) -> None:
    attack = make("fgsm", eps=0.1, channels=channels, scope=scope)
    attacked = attack_case(attack, model, case, None, 3)
    total, clean = attacked.adversarial.sum(0), case.image.sum(0)
    assert torch.equal((total > 1) != (clean > 1), (clean - 1).abs() < reach)
    assert torch.equal(attacked.adversarial[0], case.image[0]) == (channels is not None)


def test_a_reference_has_its_channels(model: SegmentationModel, case: Case) -> None:
    """Two references lead to two volumes, in the channel that is attacked."""
    attack = make("faa", portion=1.0, bands=2, steps=1, channels=1, reconstruction_weight=0.0)
    one, two = (attack_case(attack, model, case, 0, 4, make_case(seed)).adversarial for seed in (1, 2))
    assert not torch.equal(one[1], two[1])
    assert torch.equal(one[0], case.image[0])


def test_scores_are_those_of_both_channels(case: Case) -> None:
    adversarial = case.image.clone()
    adversarial[1, 4, 5, 6] += 0.1
    adversarial[0, 4, 5, 6] -= 0.05
    values = score_volume(case, adversarial, ("ssim", "psnr"), ROI, torch.device("cpu")).values
    assert values["linf"] == pytest.approx(0.1)
    assert values["l2"] == values["l2_body"] == pytest.approx(math.hypot(0.1, 0.05))
    mse = (0.1**2 + 0.05**2) / case.image.numel()
    assert values["psnr"] == pytest.approx(-10 * math.log10(mse))
    assert 0.9 < values["ssim"] < 1
