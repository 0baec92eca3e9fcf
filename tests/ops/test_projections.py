"""Projections and the proximity operator against a general solver and their own definitions."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from freqbench.ops.projections import l2_ball, linf_prox, rms, unit_rms


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
    together = linf_prox(*task())
    alone = [linf_prox(*parts) for parts in zip(*(t.split(1) for t in task()), strict=True)]
    assert torch.equal(together, torch.cat(alone))


def test_heavy_weight_leaves_nothing_and_none_the_box() -> None:
    zero = torch.zeros(1, 4)
    assert torch.equal(linf_prox(zero, torch.ones(1), zero + 1e-8, zero - 1, zero + 1), zero)
    point, _, metric, low, high = task()
    for weight, expected in ((1e6, torch.zeros_like(point)), (1e-12, point.clamp(low, high))):
        moved = linf_prox(point, torch.full((3,), weight, dtype=torch.float64), metric, low, high)
        assert torch.allclose(moved, expected, atol=1e-7)


def far(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Clean volumes with black and white voxels, and points far outside the box, some of them very far."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.rand(6, 2, 3, 2, 2, generator=generator, dtype=dtype)
    clean[:, :, 0] = 0
    clean[:, 1, 1] = 1
    return clean, clean + torch.randn(clean.shape, generator=generator, dtype=dtype) * torch.logspace(
        -2, 1.5, 6, dtype=dtype
    ).reshape(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("sample", range(6))
@pytest.mark.parametrize("eps", [0.05, 0.3, 0.55])
def test_l2_ball_and_box_have_the_solvers_nearest_point(sample: int, eps: float) -> None:
    """A clamp after the ball ends at another point of both, which is farther away."""
    clean, point = (tensor[sample].flatten().numpy() for tensor in far())
    inside = {
        "type": "ineq",
        "fun": lambda x: eps**2 * x.size - ((x - clean) ** 2).sum(),
        "jac": lambda x: 2 * (clean - x),
    }

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        return float(0.5 * ((x - point) ** 2).sum()), x - point

    options = {"ftol": 1e-14, "maxiter": 1000}
    best = minimize(value, clean, jac=True, bounds=[(0, 1)] * clean.size, constraints=[inside], options=options)
    nearest = l2_ball(*far()[:1], eps)(far()[1])[sample].flatten().numpy()
    assert np.allclose(nearest, best.x, atol=1e-5)
    assert value(nearest)[0] <= best.fun * (1 + 1e-9) + 1e-7
    change = point - clean
    ball_then_box = np.clip(clean + change * min(1, eps * change.size**0.5 / np.linalg.norm(change)), 0, 1)
    assert value(nearest)[0] <= value(ball_then_box)[0] + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.3, 1.0])
def test_projected_volumes_stay_when_projected_again(dtype: torch.dtype, eps: float) -> None:
    clean, point = far(dtype)
    project = l2_ball(clean, eps)
    moved = project(point)
    assert rms(moved - clean).max() <= eps + 1e-7
    assert (float(moved.min()), float(moved.max())) >= (0.0, 0.0)
    assert moved.max() <= 1
    assert torch.allclose(project(moved), moved, atol=1e-7)
    assert torch.equal(project(clean), clean)


def test_parts_of_one_body_share_a_ball() -> None:
    clean, point = far()
    counted = torch.rand(6, 1, 3, 2, 2) < 0.7
    moved = l2_ball(clean, 0.2, counted)(point)
    kept = counted.expand_as(clean)
    assert torch.allclose(moved[kept], l2_ball(clean[kept][None], 0.2)(point[kept][None])[0], atol=1e-12)
    assert torch.equal(moved[~kept], clean[~kept])
    assert rms(moved - clean, counted) == pytest.approx(0.2)
    assert rms(moved - clean).max() > 0.25, "every part has the same: nothing is tested"


def test_step_has_a_root_mean_square_of_one() -> None:
    gradient = far()[1] * 1e-30
    step = unit_rms(gradient)
    assert torch.allclose(rms(step).flatten(), torch.ones(6, dtype=torch.float64))
    assert torch.allclose(step / step[:, :1, :1, :1, :1], gradient / gradient[:, :1, :1, :1, :1], rtol=1e-9)
    assert torch.equal(unit_rms(torch.zeros(1, 1, 2, 2, 2)), torch.zeros(1, 1, 2, 2, 2))
