"""Attacks with `ssim_min` keep the SSIM inside the body, use all of it, and know that it costs."""

import re
from dataclasses import replace

import pytest
import torch
from attacks.small import Net, volumes
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import cross_entropy

from freqbench.attacks import Attack, frequency_apgd, make
from freqbench.attacks.frequency_apgd import within_ssim
from freqbench.core.errors import ThreatModelError, UserError
from freqbench.ops.ssim import body_ssim

OPTIMAL = pytest.mark.parametrize("name", ["vafa_opt", "sa2_opt_2d"])
STRONG = {"vafa_opt": {"q_max": 120, "renormalize": False}, "sa2_opt": {"rho": 0.9}}


def strong(name: str, **parameters: object) -> Attack:
    bounds = STRONG[name.removesuffix("_2d")]
    return make(name, **({"steps": 6, "block": 4, "loss": "ce"} | bounds | parameters))


def bodies() -> tuple[Tensor, Tensor]:
    """Two samples in air, smooth inside, one of them with a hole of air."""
    images, labels = volumes(2, (12, 12, 8))
    images = torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, 1, 1, 1))).clamp(0.05, 1)
    images[:, :, :2] = 0
    images[0, :, 6:8, 6:8, 3:5] = 0
    return images, labels


def ssim_in_body(clean: Tensor, adversarial: Tensor) -> list[float]:
    """`tests/ops` holds it against scipy."""
    found: list[float] = body_ssim(clean)(adversarial).tolist()
    return found


def harm(adversarial: Tensor, labels: Tensor) -> float:
    return float(cross_entropy(Net()(adversarial), labels[:, 0]).detach())


@OPTIMAL
@pytest.mark.parametrize("control", ["none", "uniform", "random"])
def test_the_bound_holds_and_is_used(name: str, control: str) -> None:
    """Without it the SSIM is lower; with it it is next to the bound, in null rows too."""
    images, labels = bodies()
    free, bounded = (
        strong(name, control=control, ssim_min=ssim_min)(Net(), images, labels).adversarial for ssim_min in (None, 0.97)
    )
    assert max(ssim_in_body(images, free)) < 0.96
    assert all(0.97 - 1e-5 <= value < 0.975 for value in ssim_in_body(images, bounded))


@OPTIMAL
def test_a_tighter_bound_hurts_less(name: str) -> None:
    images, labels = bodies()
    found = [harm(strong(name, ssim_min=s)(Net(), images, labels).adversarial, labels) for s in (None, 0.97, 0.99)]
    assert found[0] > found[1] > found[2] > harm(images, labels)


def test_an_ssim_of_one_leaves_multipliers_at_one() -> None:
    images, labels = bodies()
    assert torch.equal(strong("sa2_opt", ssim_min=1)(Net(), images, labels).adversarial, images)


def test_where_no_table_keeps_it_one_line_says_so() -> None:
    """A second call with the number that it names goes through."""
    attacked = strong("vafa_opt", q_min=100, ssim_min=0.999)
    message = (
        r"^vafa_opt: ssim_min: expected at most (0\.\d{4}), which the mildest volume of the threat model has in this "
        r"window, got 0\.999: lower it$"
    )
    images, labels = bodies()
    with pytest.raises(UserError, match=message) as refused:
        attacked(Net(), images, labels)
    (most,) = re.findall(message, str(refused.value))
    adversarial = replace(attacked, ssim_min=float(most))(Net(), images, labels).adversarial
    assert min(ssim_in_body(images, adversarial)) >= float(most) - 1e-5


def test_leaving_the_bound_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.attacks.frequency_apgd.within_ssim", lambda *_: lambda x: x)
    with pytest.raises(ThreatModelError, match=r"^sa2_opt: dct-scaling-ssim bound exceeded by 0\."):
        strong("sa2_opt", ssim_min=0.97)(Net(), *bodies())


def test_the_gradient_is_that_of_the_point_on_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """By central differences of a linear function of the point, whose place on its line is found to 1e-15."""
    monkeypatch.setattr(frequency_apgd, "HALVINGS", 50)
    generator = torch.Generator().manual_seed(2)
    clean, away, weights = (torch.rand((2, 1, 5, 4, 4), generator=generator, dtype=torch.float64) for _ in range(3))
    clean = 0.1 + 0.8 * clean
    bounded = within_ssim("test", clean, 0.95, torch.zeros(()), lambda x: x, lambda x: clean + x)

    def value(x: Tensor) -> Tensor:
        return (weights * bounded(x)).sum()

    x = away.clone()
    x[1] *= 0.01  # within the bound: moved by nothing
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(point), point)
    assert torch.equal(gradient[1], weights[1])
    for place in ((0, 0, 0, 0, 0), (0, 0, 2, 1, 3), (0, 0, 4, 3, 3)):
        step = torch.zeros_like(x)
        step[place] = 1e-5
        slope = float(value(x + step) - value(x - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-5)
