"""Projections onto the sets that threat models allow."""

from collections.abc import Callable

from torch import Tensor


def linf_ball(clean: Tensor, eps: float) -> Callable[[Tensor], Tensor]:
    """The projection onto { x : |x - clean| <= eps, 0 <= x <= 1 }, voxel by voxel.

    Args:
        clean: volumes in [0, 1], any shape.
        eps: radius on the same scale.

    Returns:
        A function that maps a tensor of the same shape to its nearest point of the set.
    """
    low = (clean - eps).clamp_(min=0.0)
    high = (clean + eps).clamp_(max=1.0)
    return lambda x: x.clamp(low, high)
