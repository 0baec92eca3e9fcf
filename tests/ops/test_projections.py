"""The proximity operator against Moreau's decomposition, a general solver and its own definition."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from freqbench.ops.projections import linf_prox


def task(batch: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Points partly outside their box, weights that cut a little, much and everything."""
    generator = torch.Generator().manual_seed(seed)

    def rand() -> Tensor:
        return torch.rand(batch, 1, 3, 2, 2, generator=generator, dtype=torch.float64)

    weight = torch.tensor([0.05, 1.0, 50.0], dtype=torch.float64)[:batch]
    return 2 * rand() - 1, weight, 0.2 + 2 * rand(), -rand(), rand()


@pytest.mark.parametrize("sample", range(3))
def test_linf_prox_is_the_optimum_of_a_general_solver(sample: int) -> None:
    """Over t and p with -t <= p <= t, the box and the metric in it."""
    point, weight, metric, low, high = (tensor[sample].flatten().numpy() for tensor in task())
    n = len(point)

    def value(z: np.ndarray) -> float:
        return float(weight[0] * z[n] + 0.5 * (metric * (z[:n] - point) ** 2).sum())

    inside = [{"type": "ineq", "fun": lambda z, sign=sign: z[n] + sign * z[:n]} for sign in (1, -1)]
    start = np.append(np.clip(point, low, high), 1.0)
    bounds = [*zip(low, high, strict=True), (0, None)]
    best = minimize(value, start, bounds=bounds, constraints=inside, options={"ftol": 1e-12, "maxiter": 500})
    nearest = linf_prox(*task())[sample].flatten().numpy()
    assert np.allclose(nearest, best.x[:n], atol=1e-4)
    assert value(np.append(nearest, np.abs(nearest).max())) <= best.fun + 1e-5


def test_samples_do_not_touch_each_other() -> None:
    together, alone = linf_prox(*task()), [linf_prox(*(t[i : i + 1] for t in task())) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_a_heavy_weight_leaves_nothing_as_of_zeros_and_none_leaves_the_box() -> None:
    zero = torch.zeros(1, 4)
    assert torch.equal(linf_prox(zero, torch.ones(1), zero + 1e-8, zero - 1, zero + 1), zero)
    point, _, metric, low, high = task()
    for weight, expected in ((1e6, torch.zeros_like(point)), (1e-12, point.clamp(low, high))):
        moved = linf_prox(point, torch.full((3,), weight, dtype=torch.float64), metric, low, high)
        assert torch.allclose(moved, expected, atol=1e-7)
