"""Rounding with a derivative, and the quantisation of a spectrum by a table."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FIRST_ALPHA, LAST_ALPHA = 0.1, 1e-20


def alpha_schedule(steps: int) -> list[float]:
    """The softness of rounding at each step: 0.1 (1 - i / steps), as a running float32 sum.

    The code released with VAFA (Hanif et al., MICCAI 2023, arXiv 2307.07269) adds (1e-20 - 0.1) / steps after every
    step and never uses the last sum: rounding stays soft to the end.
    """
    change = torch.tensor((LAST_ALPHA - FIRST_ALPHA) / steps)
    alpha = torch.tensor(FIRST_ALPHA)
    schedule = []
    for _ in range(steps):
        schedule.append(float(alpha))
        alpha = alpha + change
    return schedule


def soft_round(u: Tensor, alpha: float) -> Tensor:
    r"""Rounding that lets a gradient through.

    .. math:: \varphi(u) = f + \tfrac12 \Bigl(1 + \tfrac{1}{1 - \alpha} \tanh\bigl(k (u - f - \tfrac12)\bigr)\Bigr),
              \quad f = \lfloor u \rfloor, \; k = \ln(2 / \alpha - 1)

    It meets u at whole numbers and halfway between them, and is steep in between: the smaller alpha, the steeper. The
    floor has no derivative, the tanh has. (Gong et al., ICCV 2019, arXiv 1908.05033; as used by VAFA.)

    Args:
        u: any shape.
        alpha: in (0, 1).
    """
    rounded: Tensor = _SoftRound.apply(u, alpha)  # type: ignore[no-untyped-call]
    return rounded


def quantisation_error(spectrum: Tensor, table: Tensor, alpha: float) -> Tensor:
    r"""What quantising a spectrum by a table adds to it: :math:`\varphi(c / q) \, q - c`.

    The gradient reaches the table through the division and through the product: :math:`\varphi(u) - u \varphi'(u)` with
    u = c / q. The difference to the spectrum, not the quantised spectrum itself, keeps float32 exact where little
    changes.

    Args:
        spectrum: c, any shape; a constant, no gradient is returned for it.
        table: q > 0, of the same shape.
        alpha: softness of the rounding.
    """
    error: Tensor = _QuantisationError.apply(spectrum, table, alpha)  # type: ignore[no-untyped-call]
    return error


def _constants(alpha: float) -> tuple[float, float]:
    """k and 1 / (2 (1 - alpha)), rounded to float32 as in the released code: in float64 runs signs hang on it."""
    softness = torch.tensor(alpha, dtype=torch.float32)
    return float(torch.log(2 / softness - 1)), float(1 / (1 - softness)) / 2


def _value_and_slope(u: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The soft rounding of u and its derivative."""
    steepness, scale = _constants(alpha)
    floor = u.floor()
    tanh = (u - floor).sub_(0.5).mul_(steepness).tanh_()
    value = floor.add_(0.5).add_(tanh, alpha=scale)
    slope = tanh.square_().sub_(1).mul_(-scale * steepness)
    return value, slope


class _SoftRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, alpha: float) -> Tensor:
        value, slope = _value_and_slope(u, alpha)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return upstream * slope, None


class _QuantisationError(torch.autograd.Function):
    """Keeps one tensor, the derivative with respect to the table."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, table: Tensor, alpha: float) -> Tensor:
        u = spectrum / table
        value, slope = _value_and_slope(u, alpha)
        ctx.save_for_backward(torch.addcmul(value, u, slope, value=-1))
        return value.mul_(table).sub_(spectrum)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return None, upstream * derivative, None
