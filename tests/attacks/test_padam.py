"""PAdam against its formula written out, and what tells it from PGD."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from freqbench.attacks import PAdam, make
from freqbench.attacks.core.values import step_length


class Quadratic(nn.Module):
    """Raising the cross-entropy of class 0 pulls every voxel to `top`; it notes where it is asked."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top, self.asked = top, list[float]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(float(x.detach()))
        return torch.cat([torch.zeros_like(x), -4 * (x - self.top) ** 2], dim=1)


def amsgrad(x: float, top: float, eps: float, step: float, steps: int) -> list[float]:
    """Path of the paper's iteration from x, in plain numbers, on log(1 + exp(-4 (x - top)^2))."""
    clean, path = x, [x]
    m = v = highest = 0.0
    for t in range(1, steps + 1):
        wrong = 1 / (1 + np.exp(4 * (x - top) ** 2))
        g = -8 * (x - top) * wrong
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        highest = max(highest, v)
        x += step * (m / (1 - 0.9**t)) / (np.sqrt(highest / (1 - 0.999**t)) + 1e-8)
        x = min(max(x, clean - eps, 0.0), clean + eps, 1.0)
        path.append(x)
    return path


@pytest.mark.parametrize(("top", "eps", "steps"), [(0.53, 0.2, 80), (0.9, 0.05, 12), (-0.02, 0.6, 12)])
def test_the_iteration_is_projected_amsgrad(top: float, eps: float, steps: int) -> None:
    """The three cases swing until gradients fade, run into the edge of the ball, and into the end of the scale."""
    model, image = Quadratic(top), torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    result = make("padam", eps=eps, steps=steps, random_start=False)(model, image, torch.zeros_like(image).long())
    expected = amsgrad(0.5, top, eps, eps / 4, steps)
    assert [*model.asked, float(result.adversarial)] == pytest.approx(expected, abs=1e-12)


def test_defaults_are_those_of_the_authors() -> None:
    """200 steps of 2/255 at 8/255 on the cross-entropy, the last volume being the result."""
    attack = PAdam(eps=8 / 255)
    assert step_length(attack.step_size, attack.eps) == pytest.approx(2 / 255)
    assert (attack.passes, attack.loss, attack.keep, attack.random_start) == ((200, 200), "ce", "last", True)


@pytest.mark.parametrize(("top", "best"), [(0.51, 0), (0.56, 1)])
def test_padam_keeps_the_best_of_its_volumes(top: float, best: int) -> None:
    model, image = Quadratic(top), torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    attack = make("padam", eps=0.2, steps=3, random_start=False, keep="best")
    intensity = float(attack(model, image, torch.zeros_like(image).long()).adversarial)
    assert intensity == min(model.asked, key=lambda x: abs(x - top)) == model.asked[best]
