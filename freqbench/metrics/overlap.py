"""Measures overlap and volumes of two label maps, from their confusion counts, and what a certificate covers.

Dice: L. R. Dice, "Measures of the amount of ecologic association between species", Ecology 26(3), 1945.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.metrics.volumes import Volume, as_tensor, lengths, require_classes, require_same_shape

Values = npt.NDArray[np.float64]


def confusion(pred: Volume, label: Volume, num_classes: int) -> Tensor:
    """Voxel counts of `[H, W, D]` maps by class, int64 `[K, K]`: rows label, columns prediction, background included.

    Raises a UserError where shapes differ, or a value is not a class.
    """
    rows, columns = as_tensor(label), as_tensor(pred)
    require_same_shape(columns.shape, rows.shape)
    require_classes(rows, num_classes)
    require_classes(columns, num_classes)
    pairs = rows.to(columns.device, torch.int64).flatten() * num_classes + columns.to(torch.int64).flatten()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def dice_from_confusion(counts: Tensor) -> Values:
    """Dice of each class, `2 |P and L| / (|P| + |L|)`, from `confusion`'s counts: float64 `[K]`, background first.

    A class that the label does not have is NaN, whatever the prediction says (MONAI's `ignore_empty=True`); one that
    the label has and the prediction has not is 0.
    """
    table = counts.cpu().numpy().astype(np.float64)
    in_label, in_pred = table.sum(axis=1), table.sum(axis=0)
    return _ratio(2 * table.diagonal(), in_label + in_pred, in_label)


def dice(pred: Volume, label: Volume, num_classes: int) -> Values:
    """Dice of each class: `dice_from_confusion(confusion(pred, label, num_classes))`.

    Example:
        >>> import numpy as np
        >>> dice(np.array([[[1, 1, 0, 0]]]), np.array([[[1, 0, 0, 0]]]), num_classes=3)
        array([0.8       , 0.66666667,        nan])
    """
    return dice_from_confusion(confusion(pred, label, num_classes))


def volume_errors(counts: Tensor, spacing: Sequence[float]) -> dict[str, Values]:
    """How much larger each class is in the prediction, from `confusion`'s counts: columns of float64 `[K]`.

    `volume_error_ml` is predicted minus true millilitres, `volume_error_relative` its magnitude over the true volume.
    `spacing` is millimetres a voxel. NaN for the background, and where the label does not have the class.
    """
    table = counts.cpu().numpy().astype(np.float64)
    in_label = np.append(0.0, table.sum(axis=1)[1:])
    excess = table.sum(axis=0) - in_label
    millilitres = np.where(in_label > 0, excess * lengths(spacing).prod() / 1000, np.nan)
    return {"volume_error_ml": millilitres, "volume_error_relative": _ratio(np.abs(excess), in_label, in_label)}


def missed_classes(counts: Tensor) -> int:
    """How many foreground classes the label has and the prediction has nowhere."""
    return int(((counts.sum(1) > 0) & (counts.sum(0) == 0))[1:].sum())


def hallucinated_classes(counts: Tensor) -> int:
    """How many foreground classes the prediction has and the label has nowhere."""
    return int(((counts.sum(1) == 0) & (counts.sum(0) > 0))[1:].sum())


def voxel_success(pred_clean: Volume, pred: Volume) -> float:
    """The share of voxels, 0 to 1, whose predicted class the attack changed; a UserError where shapes differ."""
    before, after = as_tensor(pred_clean), as_tensor(pred)
    require_same_shape(before.shape, after.shape)
    return float((before.to(after.device) != after).double().mean())


def class_mean(values: Values) -> float:
    """Mean over all classes, background included, NaN left out (the published convention); NaN where all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def foreground_mean(values: Values) -> float:
    """Mean over the classes other than background, NaN left out; NaN where all are."""
    return class_mean(values[1:])


def undefined_classes(values: Values) -> int:
    """How many classes are NaN and so drop out of a mean (background included)."""
    return int(np.isnan(values).sum())


def certified_scores(pred: Tensor, certified: Tensor, label: Tensor, num_classes: int) -> dict[str, float]:
    r"""Share of certified voxels, and Dice of what is certified, mean over foreground classes in the label.

    With P_k the certified voxels that are predicted as class k, L_k those labelled so and A those that abstain:

    .. math:: d_k = \frac{2 |P_k \cap L_k|}{|P_k| + |L_k|}, \qquad
              b_k = \frac{2 |P_k \cap L_k|}{|P_k| + |L_k| + |A \setminus L_k|}

    `certified_dice` is the mean of d_k: to abstain is a class of its own, never right, as in the certified accuracy and
    IoU of Fischer et al. (ICML 2021, arXiv:2107.00228). It is no bound of the Dice, as voxels that abstain outside L_k
    may be predicted as k. `certified_dice_bound` is the mean of b_k: what no change within the certified radius takes
    the Dice of class k below, whatever becomes of A, as to predict k on A outside L_k is the worst that can be done.

    All maps are `[H, W, D]`: `pred` holds the certificate's class where `certified` is True. Values are 0 to 1, of the
    two Dice NaN where the label has no foreground.
    """
    certified = certified.to(pred.device)
    # A class more than there are stands for what abstains.
    seen = torch.where(certified, pred.long(), num_classes)
    counts = confusion(seen, label.long(), num_classes + 1).double().cpu().numpy()
    in_label, in_pred, right = counts.sum(axis=1)[:-1], counts.sum(axis=0)[:-1], counts.diagonal()[:-1]
    beyond = counts[:, -1].sum() - counts[:-1, -1]  # what abstains elsewhere
    return {
        "certified_share": float(certified.double().mean()),
        "certified_dice": foreground_mean(_ratio(2 * right, in_pred + in_label, in_label)),
        "certified_dice_bound": foreground_mean(_ratio(2 * right, in_pred + in_label + beyond, in_label)),
    }


def _ratio(above: Values, below: Values, in_label: Values) -> Values:
    """NaN where the label does not have the class."""
    scores: Values = np.divide(above, below, out=np.full(len(above), np.nan), where=in_label > 0)
    return scores
