"""What single voxels say of a prediction: whether it is right, how near it is, and Dice over any set of them."""

import torch
from torch import Tensor

SMOOTH = 1e-5


def is_as_labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether a voxel is predicted as labelled, bool `[B, 1, H, W, D]`.

    Where two classes share the largest logit, both are taken as predicted: an argmax over classes is much slower.

    Args:
        logits: `[B, K, H, W, D]`.
        labels: integers 0 to K - 1, `[B, 1, H, W, D]`.
    """
    return logits.gather(1, labels.long()) >= logits.amax(dim=1, keepdim=True)


def cosine_to_label(p: Tensor, labels: Tensor) -> Tensor:
    r"""The cosine between softmax and one-hot label in every voxel, :math:`p_{label} / \|p\|_2`, `[B, 1, H, W, D]`.

    It grows with the label's probability, from 0 to 1.

    Args:
        p: softmax, `[B, K, H, W, D]`.
        labels: integers 0 to K - 1, `[B, 1, H, W, D]`.
    """
    squares: Tensor = torch.einsum("bk...,bk...->b...", p, p)  # seven times as fast as a norm over the second axis
    return p.gather(1, labels.long()) / squares.sqrt()[:, None]


def dice_of_set(p: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    r"""One Dice loss over a set S of voxels of a whole batch, all classes and samples pooled.

    .. math:: 1 - \frac{2 \sum_S p_{label} + 10^{-5}}{|S| + \sum_S \sum_k p_k^2 + 10^{-5}}

    An empty set gives 0 and no gradient. As in the SegPGD of the code released with SA2 (Hanif et al., ISBI 2025).

    Args:
        p: softmax, `[B, K, H, W, D]`.
        labels: integers 0 to K - 1, `[B, 1, H, W, D]`.
        members: of S, bool `[B, 1, H, W, D]`.

    Returns:
        A scalar.
    """
    weights = members.to(p)
    overlap = (weights * p.gather(1, labels)).sum()
    squares = (weights * p.square()).sum()
    return 1 - (2 * overlap + SMOOTH) / (weights.sum() + squares + SMOOTH)
