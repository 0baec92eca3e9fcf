"""Moves points of a set towards no change until the volumes that they make keep a least SSIM."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.ops.ssim import body_ssim

HALVINGS = 8  # of the line to the origin
FLAT = -1e-12  # the slope of the SSIM nearest to 0 that may be a divisor


def within_ssim(
    name: str,
    clean: Tensor,
    ssim_min: float,
    origin: Tensor,
    project: Callable[[Tensor], Tensor],
    render: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    r"""Returns a function that moves points `[B, ...]` to the origin until their volumes' SSIM is at least `ssim_min`.

    With o the origin, P the projection and S the SSIM of a point's volume with the clean one, x becomes P(o + t (x -
    o)). t is the largest number in [0, 1] at which S is still at least `ssim_min`, found to 1/256 by bisection. As t
    depends on x, the gradient has a term for it: with g the gradient at the new point, s that of S, P as if it were the
    identity, and t below 1,

    .. math:: \frac{dL}{dx} = t \Bigl(g - \frac{g \cdot (x - o)}{s \cdot (x - o)} \, s\Bigr),

    the gradient of the Lagrangian L + lambda S with the lambda that leaves nothing to gain along the line. Without the
    second term an attack spends its SSIM budget where it gains little: SA2's multipliers on the phantom's UNet, 20
    steps at 0.95, leave 59 % Dice instead of 38 %. P(o) is the mildest point; if even its SSIM is too low, a UserError
    is raised in the attack's name.
    """
    similarity = body_ssim(clean)

    def inside(x: Tensor, share: Tensor) -> Tensor:
        return project(origin + _across(share, x) * (x - origin))

    def bounded(x: Tensor) -> Tensor:
        with torch.no_grad():
            low, high = x.new_zeros(len(x)), x.new_ones(len(x))
            share = high
            for _ in range(HALVINGS + 1):
                holds = similarity(render(inside(x, share))) >= ssim_min
                low, high = torch.where(holds, share, low), torch.where(holds, high, share)
                share = (low + high) / 2
            point = inside(x, low)
        if not x.requires_grad:
            return point
        at = point.requires_grad_()
        (s,) = torch.autograd.grad(similarity(render(at)).sum(), at)
        away, moved = (x - origin).detach(), x - x.detach()  # moved is 0 and brings the derivative
        slope = (s * away).flatten(1).sum(dim=1).clamp(max=FLAT)
        change = -low * (s * moved).flatten(1).sum(dim=1) / slope
        shorter = torch.where((low < 1) & (slope < FLAT), change, 0.0)
        return point.detach() + _across(low, x) * moved + _across(shorter, x) * away

    with torch.no_grad():
        mildest = float(similarity(render(project(origin))).min())
    if mildest < ssim_min - 1e-6:
        most = math.floor(1e4 * mildest) / 1e4
        raise UserError(
            f"{name}: ssim_min: expected at most {most:.4f}, which the mildest volume of the threat model has in this "
            f"window, got {ssim_min:g}: lower it"
        )
    return bounded


def _across(share: Tensor, x: Tensor) -> Tensor:
    return share.reshape(-1, *[1] * (x.ndim - 1))
