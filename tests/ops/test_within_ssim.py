"""Points moved towards no change until their volumes keep a least SSIM."""

import pytest
import torch
from torch import Tensor

from freqbench.ops.within_ssim import within_ssim


def test_gradient_is_that_of_the_point_on_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Central differences agree, of a linear function of the point, whose place on its line is found to 1e-15."""
    monkeypatch.setattr("freqbench.ops.within_ssim.HALVINGS", 50)
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
