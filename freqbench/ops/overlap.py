"""Scores how well a prediction covers the labels, by the Dice of classes, as a test of success."""

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_dice(logits: Tensor, labels: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    r"""Returns the mean Dice of the predicted classes of each sample, float64 `[B]` in [0, 1], without a gradient.

    With P_k the voxels of largest logit k (logits `[B, K, H, W, D]`) and L_k those of label k (`[B, 1, H, W, D]`), it
    is the mean of

    .. math:: D_k = \frac{2 |P_k \cap L_k|}{|P_k| + |L_k|}

    over the classes k that count and that the sample's labels contain; `freqbench.metrics` leaves others undefined too.

    Args:
        logits: of any spatial rank.
        labels: integers 0 to K - 1.
        classes: classes that count; labels without any of them give 0, as there is nothing to lose. None: the
            foreground, 1 to K - 1; labels without foreground give the share of correct voxels.
    """
    pred, true = logits.argmax(dim=1).flatten(1), labels.flatten(1).long()  # [B, N]
    is_right = (pred == true).double()
    per_class = is_right.new_zeros(len(logits), logits.shape[1])
    ones = torch.ones_like(is_right)
    labelled = per_class.scatter_add(1, true, ones)
    both = labelled + per_class.scatter_add(1, pred, ones)
    dice = 2 * per_class.scatter_add(1, true, is_right) / both.clamp(min=1)
    counts = torch.zeros_like(labelled)
    for k in range(1, counts.shape[1]) if classes is None else classes:
        counts[:, k] = 1  # one by one: copying a list of them would make the device wait
    counts *= labelled > 0
    mean = (dice * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    return mean if classes is not None else torch.where(counts.any(dim=1), mean, is_right.mean(dim=1))
