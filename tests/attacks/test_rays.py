"""RayS: the least radius where it is known, what it asks the network, and what it makes of the answers."""

from typing import Any

import pytest
import torch
from attacks.asked import EPS, Asked, run, task, told
from attacks.examples import Threshold, of_class
from attacks.small import Linear, Net
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make
from freqbench.ops.losses import mean_dice


def search(**changes: Any) -> tuple[Asked, AttackResult]:
    return run("rays", **({"queries": 150} | changes))


def ramp() -> tuple[Tensor, Tensor]:
    """48 voxels from 0.4 to 0.6 in a random order, of which a threshold model finds the 24 above 0.5."""
    order = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    images = torch.linspace(0.4, 0.6, 48, dtype=torch.float64)[order].reshape(1, 1, 4, 3, 4)
    return images, (images > 0.5).long()


@pytest.mark.parametrize("radius", [0.01, 0.08])
def test_the_radius_on_a_linear_network_is_its_distance(radius: float) -> None:
    """The least L-infinity distance from 0.5 to w . (x - 0.5) = b is b / |w|_1, along the signs of w."""
    weights = torch.randn(1, 1, 4, 3, 2, dtype=torch.float64)
    images = torch.full_like(weights, 0.5)
    network = Linear(weights, radius * float(weights.abs().sum()))
    result = make("rays", eps=EPS, queries=500)(network, images, of_class(images, 1))
    assert radius <= result.state == pytest.approx(radius, rel=1e-3)
    assert torch.equal((result.adversarial - images).sign(), weights.sign())
    assert bool((network(result.adversarial).argmax(1) == 0).all()) is (radius < EPS)


@pytest.mark.parametrize(("factor", "fell"), [(1.01, True), (0.9, False)])
def test_result_succeeds_if_the_least_radius_is_within_eps(factor: float, fell: bool) -> None:
    """A least radius beyond eps gives its projection onto the ball: a failure."""
    images, labels = ramp()
    kind = {"queries": 1000, "dice": 0.5}
    eps = factor * float(make("rays", eps=EPS, **kind)(Threshold(), images, labels).state)
    adversarial = make("rays", eps=eps, **kind)(Threshold(), images, labels).adversarial
    assert (float(mean_dice(Threshold()(adversarial), labels)) <= 0.5) is fell
    assert (adversarial - images).abs().max() == pytest.approx(eps)


class Between(nn.Module):
    """Right everywhere but where an intensity lies in an interval."""

    def forward(self, x: Tensor) -> Tensor:
        wrong = ((x > 0.12) & (x < 0.65)).to(x)
        return torch.cat([wrong, 1 - wrong], dim=1)


def between(**parameters: float) -> tuple[float, float]:
    """The largest change and the radius of a search on `Between`, which is right up to a radius of 0.02."""
    images = torch.full((1, 1, 4, 4, 4), 0.1)
    result = make("rays", queries=40, **parameters)(Between(), images, of_class(images, 1))
    return float((result.adversarial - images).max()), float(result.state)


def test_success_that_eps_would_undo_keeps_its_radius() -> None:
    """A Dice at the threshold has fallen: a threshold of 1 is met at every radius."""
    assert between(eps=0.6, dice=0.5) == pytest.approx((0.02, 0.02), rel=2e-3)
    assert between(eps=EPS, dice=1.0)[1] < 1e-3


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise AssertionError("a gradient was taken")


class Sealed(nn.Module):
    """A network without a gradient, which tells nothing but its labels: the logits are 1 there and 0 elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        logits = Net()(NoBackward.apply(x))
        return torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0)


def test_rays_sees_decisions_alone_and_takes_no_gradient() -> None:
    sealed, open_ = (make("rays", eps=EPS, queries=100)(net, *task()) for net in (Sealed(), Net()))
    assert torch.equal(sealed.adversarial, open_.adversarial)
    assert sealed.backwards == (0,) * 3


def test_query_is_one_forward_pass_and_clean_volume_is_one_more() -> None:
    for dice, passes in ((None, 151), (0.4, 150)):
        model, result = search(dice=dice)
        assert (len(model.volumes), result.forwards, result.backwards) == (passes, (passes,) * 3, (0,) * 3)
        assert not any(model.with_gradient)
        assert torch.equal(model.volumes[0], task()[0]) is (dice is None)


def test_default_threshold_is_half_the_clean_dice() -> None:
    """The network is right everywhere, so that half is 0.5."""
    assert torch.equal(search()[1].adversarial, search(dice=0.5)[1].adversarial)
    assert not torch.equal(search()[1].adversarial, search(dice=0.3)[1].adversarial)


def test_radius_is_that_of_the_nearest_success() -> None:
    """Sample by sample: among all that was asked, none beyond the last success is nearer and a success."""
    model, result = search(dice=0.5)
    images = task()[0]
    for i in range(3):
        sizes = [float((asked[i] - images[i]).abs().max()) for asked in model.volumes[:-1]]
        fallen = [size for size, dice in zip(sizes, told(model, i)[:-1], strict=True) if dice <= 0.5]
        assert result.state[i] == pytest.approx(min(fallen), abs=1e-6)
