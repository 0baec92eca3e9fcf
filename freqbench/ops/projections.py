"""Projects volumes onto the set of a threat model, and steps along the norm that bounds it."""

from collections.abc import Callable

import torch
from torch import Tensor

HALVINGS = 24  # to 6e-8 of the largest change


def linf_ball(clean: Tensor, eps: float) -> Callable[[Tensor], Tensor]:
    """Returns the projection onto { x : |x - clean| <= eps, 0 <= x <= 1 }, voxel by voxel, as a function of volumes."""
    low = (clean - eps).clamp_(min=0.0)
    high = (clean + eps).clamp_(max=1.0)
    return lambda x: x.clamp(low, high)


def l2_ball(clean: Tensor, eps: float, counted: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    r"""Returns the projection onto { x : rms(x - clean) <= eps, 0 <= x <= 1 }, as a function of volumes `[B, ...]`.

    rms is the root mean square over the voxels of a sample (`rms`). The point of the ball and the box that is nearest
    to x is

    .. math:: \mathrm{clip}_{[0, 1]}\bigl(clean + s (x - clean)\bigr), \qquad 0 \le s \le 1

    where s is 1 if that lies in the ball, or else the one number that makes the rms of the clipped change eps. This
    solves both constraints together; a projection onto the ball and then onto the box ends at another point.

    `counted`: all samples are parts of one body and share one ball over these voxels, bool `[B, 1, ...]`; other voxels
    stay as in `clean`.
    """
    limit = eps * _number(clean, counted) ** 0.5

    def project(x: Tensor) -> Tensor:
        # A float32 sum of squares over a volume would leave the ball by more than a rounding of x.
        change = _counted(x.double() - clean, counted)
        size = change.abs()
        room = torch.where(change < 0, clean, 1 - clean.double())
        boxed = size.minimum(room)
        norm = _norm(boxed, counted)
        cut = filled(size, room, norm.clamp(max=limit), counted)
        size = torch.where(norm <= limit, boxed, torch.where(size == 0, 0.0, cut))
        return (clean + size.copysign(change)).clamp(0, 1).to(x)

    return project


def unit_rms(gradient: Tensor, counted: Tensor | None = None) -> Tensor:
    """Returns a gradient scaled to a root mean square of 1 over the `counted` voxels, as in `rms`; zeros stay, and NaN
    counts as 0."""
    finite = _counted(gradient.nan_to_num(), counted)
    return (finite / rms(finite, counted).clamp(min=torch.finfo(torch.double).tiny)).to(gradient)


def rms(change: Tensor, counted: Tensor | None = None) -> Tensor:
    """Returns the root mean square of a change over each sample, float64 `[B, 1, ...]`. `counted`: the same over these
    voxels of all samples together, `[1, 1, ...]`."""
    return _norm(_counted(change, counted), counted) / _number(change, counted) ** 0.5


def filled(sizes: Tensor, room: Tensor, norm: Tensor | float, together: Tensor | None = None) -> Tensor:
    """Scales sizes by one number per sample, and cuts them to their room, so that they have this Euclidean norm, or
    fill all room. Each pass spreads the missing norm over voxels with room left; filled voxels stay so."""
    sizes = sizes.clamp(min=torch.finfo(sizes.dtype).tiny)  # keeps 0 from being multiplied by infinity
    full = room <= 0
    # Every pass but the last fills a voxel more, so that the loop ends.
    while True:
        missing = (norm**2 - _norm(room * full, together).square()).clamp(min=0)
        scaled = torch.where(full, room, missing.sqrt() / _norm(sizes * ~full, together) * sizes)
        too_much = scaled > room
        if not too_much.any():
            return scaled
        full = full | too_much


def _counted(change: Tensor, counted: Tensor | None) -> Tensor:
    return change if counted is None else torch.where(counted, change, 0)


def _number(like: Tensor, counted: Tensor | None) -> int:
    """Number of voxels, in all channels, that share a ball."""
    return like[0].numel() if counted is None else int(counted.expand_as(like).sum())


def _norm(change: Tensor, together: Tensor | None) -> Tensor:
    first = 1 if together is None else 0
    return torch.linalg.vector_norm(change, dim=[*range(first, change.ndim)], keepdim=True, dtype=torch.double)


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
    size = boxed.abs().flatten(1)
    reach = point.abs().flatten(1)
    pull = metric.flatten(1)
    above = size.amax(dim=1, keepdim=True)
    below = torch.zeros_like(above)
    for _ in range(HALVINGS):
        t = (below + above) / 2
        force = torch.where(size > t, pull * (reach - t), 0.0).sum(dim=1, keepdim=True)
        is_low = force > weight[:, None]
        below = torch.where(is_low, t, below)
        above = torch.where(is_low, above, t)
    largest = above.reshape(-1, *[1] * (point.ndim - 1))
    return boxed.clamp(-largest, largest)
