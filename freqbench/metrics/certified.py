"""What a certificate of single voxels is worth for the whole: of a model that may abstain."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.metrics.overlap import confusion, foreground_mean


def certified_scores(pred: Tensor, certified: Tensor, label: Tensor, num_classes: int) -> dict[str, float]:
    r"""Share of certified voxels, and Dice of what is certified, mean over foreground classes in the label.

    With P_k the certified voxels that are predicted as class k, L_k those labelled so and A those that abstain:

    .. math:: d_k = \frac{2 |P_k \cap L_k|}{|P_k| + |L_k|}, \qquad
              b_k = \frac{2 |P_k \cap L_k|}{|P_k| + |L_k| + |A \setminus L_k|}

    `certified_dice` is the mean of d_k: to abstain is a class of its own, never right, as in the certified accuracy and
    IoU of Fischer et al. (ICML 2021, arXiv:2107.00228). It is no bound of the Dice, as voxels that abstain outside L_k
    may be predicted as k. `certified_dice_bound` is the mean of b_k: what no change within the certified radius takes
    the Dice of class k below, whatever becomes of A, as to predict k on A outside L_k is the worst that can be done.

    Args:
        pred: predicted classes `[H, W, D]`, where certified those of the certificate.
        certified: bool `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included.

    Returns:
        `certified_share`, `certified_dice` and `certified_dice_bound`, 0 to 1; the latter NaN where the label has no
        foreground.
    """
    certified = certified.to(pred.device)
    # A class more than there are stands for what abstains.
    seen = torch.where(certified, pred.long(), num_classes)
    counts = confusion(seen, label.long(), num_classes + 1).double().cpu().numpy()
    in_label, in_pred, right = counts.sum(axis=1)[:-1], counts.sum(axis=0)[:-1], counts.diagonal()[:-1]
    beyond = counts[:, -1].sum() - counts[:-1, -1]
    return {
        "certified_share": float(certified.double().mean()),
        "certified_dice": foreground_mean(_ratio(2 * right, in_pred + in_label, in_label)),
        "certified_dice_bound": foreground_mean(_ratio(2 * right, in_pred + in_label + beyond, in_label)),
    }


def _ratio(
    above: npt.NDArray[np.float64], below: npt.NDArray[np.float64], in_label: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    scores = np.full(len(above), np.nan)
    np.divide(above, below, out=scores, where=in_label > 0)
    return scores
