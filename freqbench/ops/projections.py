"""Projects volumes onto the set of a threat model, and steps towards small perturbations."""

from collections.abc import Callable

import torch
from torch import Tensor

HALVINGS = 24  # to 6e-8 of the largest change


def linf_ball(clean: Tensor, eps: float) -> Callable[[Tensor], Tensor]:
    """Returns the projection onto { x : |x - clean| <= eps, 0 <= x <= 1 }, voxel by voxel, as a function of volumes."""
    low = (clean - eps).clamp_(min=0.0)
    high = (clean + eps).clamp_(max=1.0)
    return lambda x: x.clamp(low, high)


def linf_prox(point: Tensor, weight: Tensor, metric: Tensor, low: Tensor, high: Tensor) -> Tensor:
    r"""Applies the proximity operator of the L-infinity norm inside a box, in a diagonal metric, sample by sample.

    With the weight w > 0 `[B]`, and of shape `[B, ...]` the metric H > 0, the point d and the box, low <= 0 <= high:

    .. math:: \arg\min_{low \le p \le high} \; w \max_i |p_i| + \tfrac12 \sum_i H_i (p_i - d_i)^2

    which is d clipped to the box and then to [-t, t]. Here t is 0, or the value at which the pull of the clipped
    entries balances the weight, :math:`\sum_i H_i (|d_i| - t) = w` over the entries that t clips inside the box. The
    sum falls with t, so that bisection finds it without synchronising with the device (Rony et al., CVPR 2023,
    arXiv:2206.07179, who search by thirds).
    """
    boxed = point.clamp(low, high)
    size, reach, pull = boxed.abs().flatten(1), point.abs().flatten(1), metric.flatten(1)
    above = size.amax(dim=1, keepdim=True)
    below = torch.zeros_like(above)
    for _ in range(HALVINGS):
        t = (below + above) / 2
        force = torch.where(size > t, pull * (reach - t), 0.0).sum(dim=1, keepdim=True)
        is_low = force > weight[:, None]
        below, above = torch.where(is_low, t, below), torch.where(is_low, above, t)
    largest = above.reshape(-1, *[1] * (point.ndim - 1))
    return boxed.clamp(-largest, largest)
