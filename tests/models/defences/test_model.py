"""A network behind a defence: what an attacker follows, what is predicted, and the draws of both."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attacks.examples import example, takes
from attacks.small import Net
from scipy.special import expit
from tiers import quick
from torch import Tensor, nn

from freqbench.attacks import PGD
from freqbench.core.identity import window_generator
from freqbench.models import SegmentationModel, SlidingWindowModel, predict, prediction
from freqbench.models.entry import Inference, InputAdapter, defence_of

ROI = (8, 8, 8)
RANDOM = [{"name": "random_resize_pad", "smallest": 0.5}, {"name": "randomized_smoothing", "sigma": 0.3, "samples": 20}]


class Recorder(nn.Module):
    """Two classes from the intensity alone, x against 1/2; it keeps what it was shown."""

    def __init__(self, slope: float = 4.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope), requires_grad=False)
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        z = self.slope * (x[:, :1] - 0.5)
        return torch.cat([-z, z], dim=1)


def defended(
    content: dict[str, Any], net: nn.Module | None = None, adaptive: bool = True, **kinds: Any
) -> SegmentationModel:
    return SegmentationModel(net or Recorder(), ROI, defence=defence_of(content), adaptive=adaptive, **kinds).eval()


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def labels_of(x: Tensor) -> Tensor:
    return (x > 0.5).long()


def test_defence_sees_patients_voxels_without_padding_or_adapter() -> None:
    net = Recorder()
    model = defended({"name": "gaussian_smoothing", "sigma": 1}, net, adapter=InputAdapter(mean=0.25, axes="DHW"))
    x = images(1, 1, 6, 8, 5)
    logits = model(x)
    blurred = F.pad(model.defence.transform(x) - 0.25, (1, 2, 0, 0, 1, 1))
    torch.testing.assert_close(net.shown[0], blurred.permute(0, 1, 4, 2, 3), rtol=0, atol=1e-6)
    assert logits.shape == (1, 2, 6, 8, 5)


def test_predictions_see_the_defence_too_and_mirror_images_of_it() -> None:
    net = Recorder()
    model = defended({"name": "bit_depth", "bits": 1}, net, inference=Inference(mirror="H"))
    x = images(1, 1, *ROI)
    predict(model, x)
    torch.testing.assert_close(net.shown[0], x.round(), rtol=0, atol=0)
    torch.testing.assert_close(net.shown[1], x.round().flip(2), rtol=0, atol=0)


def test_an_attacker_follows_the_mirror_images_of_every_draw() -> None:
    net = Recorder()
    settings = Inference(mirror="HW", attack_mirrors=True)
    model = defended({**RANDOM[0], "eot": 3}, net, inference=settings)
    model(images(1, 1, *ROI), keys=[1])
    assert (model.draws, model.passes, len(net.shown)) == (3, 12, 12)
    for draw in range(0, 12, 4):
        torch.testing.assert_close(net.shown[draw + 1], net.shown[draw].flip(2), rtol=0, atol=0)


@pytest.mark.parametrize("content", RANDOM, ids=lambda content: content["name"])
def test_adaptive_attacker_follows_mean_probability_of_its_draws(content: dict[str, Any]) -> None:
    model = defended({**content, "eot": 3})
    x = images(2, 1, *ROI)
    single = SegmentationModel(model.net, ROI, defence=defence_of({**content, "eot": 1}))
    shown: list[Tensor] = model.net.shown
    logits = model(x, keys=[1, 2])
    assert len(shown) == model.passes == 3
    assert not torch.equal(shown[0], shown[1])
    assert single.passes == 1
    if content["name"] == "randomized_smoothing":
        probabilities = torch.stack([torch.sigmoid(8 * (each - 0.5)) for each in shown[:3]]).mean(dim=0)
        torch.testing.assert_close(logits.softmax(dim=1)[:, 1:], probabilities, rtol=0, atol=1e-6)


def test_gradient_of_draws_nears_that_of_the_expectation() -> None:
    """d log E[p(x + e)] / dx of a logistic p, by Gauss-Hermite quadrature."""
    sigma = 0.3
    at = 0.4
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    p = expit(8 * (at + sigma * nodes - 0.5))
    expected = float((weights * 8 * p * (1 - p)).sum() / (weights * p).sum())
    model = defended({"name": "randomized_smoothing", "sigma": sigma, "eot": 1000})
    errors = []
    for eot in (10, 1000):
        model.defence = defence_of({"name": "randomized_smoothing", "sigma": sigma, "eot": eot})
        x = torch.full((1, 1, 4, 4, 4), at, requires_grad=True)
        (slope,) = torch.autograd.grad(model(x, keys=[0]).log_softmax(dim=1)[:, 1].sum(), x)
        errors.append(float((slope - expected).square().mean().sqrt()))
    assert errors[1] < 0.03 * expected
    assert errors[1] < errors[0] / 5


@pytest.mark.parametrize("content", RANDOM, ids=lambda content: content["name"])
def test_adaptive_attackers_draw_at_every_pass_naive_never(content: dict[str, Any]) -> None:
    for adaptive in (True, False):
        net = Recorder()
        model = defended({**content, "eot": 2}, net, adaptive)
        x = images(2, 1, *ROI)
        PGD(eps=0.0, steps=3)(model, x, labels_of(x))
        assert len(net.shown) == (6 if adaptive else 3)
        assert len({bytes(each.numpy().tobytes()) for each in net.shown}) == (6 if adaptive else 1)


def test_attack_and_prediction_have_no_noise_in_common() -> None:
    net = Recorder()
    model = defended(RANDOM[1], net)
    x = images(1, 1, *ROI)
    PGD(eps=0.0, steps=4)(model, x, labels_of(x), generator=window_generator(0, "case", 0))
    attack = {each.numpy().tobytes() for each in net.shown}
    net.shown.clear()
    predict(model, x, case="case")
    seen = {each.numpy().tobytes() for each in net.shown}
    assert (len(attack), len(seen)) == (4 * 8, 10 + 20)
    assert not attack & seen


@pytest.mark.parametrize("content", RANDOM, ids=lambda content: content["name"])
def test_predictions_hang_on_the_case_and_not_on_the_batch(content: dict[str, Any]) -> None:
    model = defended(content, Recorder(0.5))
    x = images(1, 1, 12, 10, 8)
    first, again, other = (predict(model, x, batch, case) for batch, case in ((1, "a"), (3, "a"), (3, "b")))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("content", RANDOM, ids=lambda content: content["name"])
def test_volume_as_one_goes_back_through_its_own_draws(content: dict[str, Any]) -> None:
    """Else the gradient would be that of another function; finite differences of the stitched logits say so."""
    model = SlidingWindowModel(defended({**content, "eot": 2}).double(), window_batch=2)
    x = images(1, 1, 10, 8, 8).double().requires_grad_()
    direction = images(1, 1, 10, 8, 8).double() - 0.5

    def value(shift: float) -> Tensor:
        return model(x + shift * direction, keys=[5])[:, 1].square().sum()

    (gradient,) = torch.autograd.grad(value(0.0), x)
    slope = float((value(1e-5) - value(-1e-5)).detach() / 2e-5)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_passes_of_a_volume_as_one_are_those_of_the_network() -> None:
    net = Recorder()
    sliding = SlidingWindowModel(defended({**RANDOM[1], "eot": 3}, net), window_batch=1)
    sliding(images(1, 1, 12, 8, 8).requires_grad_(), keys=[0]).sum().backward()
    assert len(net.shown) == sliding.num_forwards == 2 * 2 * 3
    assert sliding.num_backwards == 2 * 3


def test_the_smoothed_noise_is_one_for_the_whole_volume() -> None:
    """Voxels that two windows hold have the same noise in both: else the radius would not be that of the volume."""
    net = Recorder()
    model = defended({**RANDOM[1], "samples": 1, "selection_samples": 1}, net)
    smoothed = prediction(model, torch.zeros(1, 1, 12, 8, 8))
    first, second = net.shown[0][:2]
    torch.testing.assert_close(first[:, 4:], second[:, :4], rtol=0, atol=0)
    assert first.any()
    assert smoothed.radius == pytest.approx(0.3 * 0.6744897501960817)


def test_confidence_of_smoothed_model_is_share_of_votes() -> None:
    samples = 8
    model = defended({**RANDOM[1], "samples": samples, "selection_samples": 1}, Recorder())
    smoothed = prediction(model, torch.zeros(1, 1, 12, 8, 8))
    assert smoothed.confidence is not None
    assert set((smoothed.confidence * samples).unique().tolist()) <= set(range(samples // 2, samples + 1))


def attacked(name: str, defence: dict[str, Any], adaptive: bool) -> Tensor:
    """Volumes of the example of an attack, of two steps where it takes steps."""
    model = defended(defence, Net(), adaptive)
    few = {"steps": 2} if takes(name, "steps") and name not in ("sea", "autoattack") else {}
    attack = example(name, **few)
    x = images(1, 1, *ROI)
    return attack(model, x, labels_of(x), generator=window_generator(0, "case", 0)).adversarial


# Each way to make a step of a gradient: its sign, its share of a norm, moments, a direction, a spectrum's, a score's.
STEPPING = ("pgd", "mifgsm", "tifgsm", "dynamic_scaling", "padam", "almaprox", "cospgd", "apgd", "vafa", "sa2")
STEPPING += ("vafa_opt", "kspace", "deformation", "ball", "universal", "faa")


@pytest.mark.parametrize("name", quick(STEPPING, "pgd", "vafa"))
def test_a_defence_without_a_gradient_leaves_volumes_finite(name: str) -> None:
    assert attacked(name, {"name": "bit_depth", "bits": 2}, False).isfinite().all()


@pytest.mark.integration
@pytest.mark.parametrize("name", ["pgd", "apgd", "cospgd", "vafa", "sa2", "square", "bases", "faa"])
def test_each_way_of_asking_a_network_that_draws_repeats(name: str) -> None:
    resized = {"name": "random_resize_pad", "smallest": 0.6, "eot": 2}
    assert torch.equal(attacked(name, resized, True), attacked(name, resized, True))
