"""Errors of a coefficient by any step of an interval, against all steps of a fine grid."""

import pytest
import torch
from torch import Tensor

from freqbench.ops.quantisation import hard_error, reach

GRID = 200_001
BOUNDS = [(5.0, 20.0), (1.0, 30.0), (15.0, 20.0), (20.0, 20.0)]


def coefficients(q_max: float) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    near = (2 * torch.rand(60, dtype=torch.float64, generator=generator) - 1) * 2 * q_max
    far = torch.randn(60, dtype=torch.float64, generator=generator) * 200
    return torch.cat([near, far, torch.zeros(1, dtype=torch.float64)])


def errors_of_all_steps(c: Tensor, q_min: float, q_max: float) -> Tensor:
    q = torch.linspace(q_min, q_max, GRID, dtype=torch.float64)
    return (c / q).round() * q - c


@pytest.mark.parametrize(("q_min", "q_max"), BOUNDS)
def test_bounds_are_the_extremes_over_all_steps(q_min: float, q_max: float) -> None:
    spectrum = coefficients(q_max)
    low, high = reach(spectrum, q_min, q_max).bounds
    extremes = torch.stack([torch.stack(errors_of_all_steps(c, q_min, q_max).aminmax()) for c in spectrum])
    torch.testing.assert_close(torch.stack([low, high], dim=1), extremes, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("q_min", "q_max"), BOUNDS)
def test_the_chosen_step_comes_nearest_to_a_wanted_error(q_min: float, q_max: float) -> None:
    spectrum = coefficients(q_max)
    wanted = (2 * torch.rand(spectrum.shape, dtype=torch.float64) - 1) * 0.8 * q_max
    reachable = reach(spectrum, q_min, q_max)
    error = reachable.nearest(wanted)
    table = reachable.table(error)
    nearest = torch.stack(
        [(errors_of_all_steps(c, q_min, q_max) - w).abs().min() for c, w in zip(spectrum, wanted, strict=True)]
    )
    torch.testing.assert_close((error - wanted).abs(), nearest, rtol=0, atol=1e-2)
    assert float(table.min()) >= q_min
    assert float(table.max()) <= q_max


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_table_makes_the_errors_in_either_precision(dtype: torch.dtype) -> None:
    spectrum = 30 * torch.randn(200_000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    reachable = reach(spectrum, 5, 20)
    for end in reachable.bounds:
        torch.testing.assert_close(reachable.nearest(end), end, rtol=0, atol=0)
        torch.testing.assert_close(hard_error(spectrum, reachable.table(end)), end, rtol=1e-5, atol=1e-4)


def test_small_coefficients_become_zero() -> None:
    """q in [5, 20]: 2 is rounded to 0 by every step; 4 becomes 0 or 5 to 8, by steps from 5 to 8."""
    spectrum = torch.tensor([2.0, -2.0, 4.0, -4.0], dtype=torch.float64)
    low, high = reach(spectrum, 5, 20).bounds
    torch.testing.assert_close(low, torch.tensor([-2.0, 2, -4, -4], dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(high, torch.tensor([-2.0, 2, 4, 4], dtype=torch.float64), rtol=0, atol=1e-3)
    nearest = reach(spectrum, 5, 20).nearest(torch.zeros(4, dtype=torch.float64))
    assert (nearest[2:].tolist(), reach(spectrum, 5, 20).table(nearest)[2:].tolist()) == ([1, -1], [5, 5])


def test_the_finest_steps_leave_a_coefficient_where_it_is() -> None:
    """Half a million steps of 0.001: each has a step, and moves by no more than that and the distance from ties."""
    spectrum = 500 * torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    reachable, little = reach(spectrum, 1e-3, 1e-3), 1e-3 + 2e-5 * spectrum.abs()
    made = hard_error(spectrum, reachable.table(reachable.nearest(torch.zeros(10_000))))
    assert all((error.abs() <= little).all() for error in (*reachable.bounds, made))
