"""Measures overlap and volumes of two label maps from their confusion counts, and the coverage of certificates.
Dice: L. R. Dice, "Measures of the amount of ecologic association between species", Ecology 26(3), 1945."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.metrics.volumes import Volume, as_tensor, lengths, require_classes, require_same_shape
from freqbench.ops.regions import alone
from freqbench.ops.voxels import counted

Values = npt.NDArray[np.float64]


def confusion(pred: Volume, label: Volume, num_classes: int) -> Tensor:
    """Counts the voxels of two label maps by class: int64 `[K, K]`, rows are labels, columns predictions.

    Voxels that do not count (`freqbench.ops.voxels`) are left out. Raises UserError if shapes or classes differ.

    Args:
        pred: predicted classes `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included.
    """
    rows = as_tensor(label)
    columns = as_tensor(pred)
    require_same_shape(columns.shape, rows.shape)
    if (counts := counted(rows, num_classes)) is not None:
        rows = rows[counts]
        columns = columns[counts.to(columns.device)]
    require_classes(rows, num_classes)
    require_classes(columns, num_classes)
    kind = torch.uint8 if num_classes**2 <= 256 else torch.int32
    pairs = rows.to(columns.device, kind) * num_classes + columns.to(kind)
    return torch.bincount(pairs.flatten(), minlength=num_classes**2).reshape(num_classes, num_classes)


def dice_from_confusion(counts: Tensor) -> Values:
    """Returns the Dice of each class, `2 |P and L| / (|P| + |L|)`, from the `counts` of `confusion`: float64 `[K]`,
    background first; NaN for a class that the label lacks (MONAI's `ignore_empty=True`), 0 for one that only the label
    has."""
    table = counts.cpu().numpy().astype(np.float64)
    in_label = table.sum(axis=1)
    in_pred = table.sum(axis=0)
    return _ratio(2 * table.diagonal(), in_label + in_pred, in_label)


def dice(pred: Volume, label: Volume, num_classes: int, has_regions: bool = False) -> Values:
    """Returns the Dice of each class: `dice_from_confusion(confusion(pred, label, num_classes))`.

    `pred`, `label` and `num_classes` are those of `confusion`. With `has_regions` the maps hold codes of regions
    (`freqbench.ops.regions`), each of which is held against all else.

    Example:
        >>> import numpy as np
        >>> dice(np.array([[[1, 1, 0, 0]]]), np.array([[[1, 0, 0, 0]]]), num_classes=3)
        array([0.8       , 0.66666667,        nan])
    """
    if not has_regions:
        return dice_from_confusion(confusion(pred, label, num_classes))
    maps = as_tensor(pred), as_tensor(label)
    return np.array([dice(alone(maps[0], k), alone(maps[1], k), 2)[1] for k in range(num_classes)])


def volume_errors(counts: Tensor, spacing: Sequence[float]) -> dict[str, Values]:
    """Returns the excess volume of each class in the prediction, from `confusion`'s counts: columns of float64 `[K]`.
    `volume_error_ml` is predicted minus true millilitres, `volume_error_relative` its magnitude over the true volume.
    `spacing` is a voxel's sides in millimetres. NaN for the background, and for classes that the label lacks."""
    table = counts.cpu().numpy().astype(np.float64)
    in_label = np.append(0.0, table.sum(axis=1)[1:])
    excess = table.sum(axis=0) - in_label
    millilitres = np.where(in_label > 0, excess * lengths(spacing).prod() / 1000, np.nan)
    return {"volume_error_ml": millilitres, "volume_error_relative": _ratio(np.abs(excess), in_label, in_label)}


def volume_scores(pred: Volume, label: Volume, num_classes: int, spacing: Sequence[float]) -> dict[str, Values]:
    """Returns `volume_errors` of two label maps; `pred`, `label` and `num_classes` are those of `confusion`, `spacing`
    is a voxel's sides in millimetres."""
    return volume_errors(confusion(pred, label, num_classes), spacing)


def missed_classes(counts: Tensor) -> int:
    """Counts, from the `counts` of `confusion`, the foreground classes that the label has and the prediction lacks."""
    return int(((counts.sum(1) > 0) & (counts.sum(0) == 0))[1:].sum())


def hallucinated_classes(counts: Tensor) -> int:
    """Counts, from the `counts` of `confusion`, the foreground classes that the prediction has and the label lacks."""
    return int(((counts.sum(1) == 0) & (counts.sum(0) > 0))[1:].sum())


def voxel_success(pred_clean: Volume, pred: Volume, label: Volume | None = None) -> float:
    """Returns the share of voxels whose predicted class the attack changed, from `pred_clean` to `pred`, `[H, W, D]`.
    Voxels that do not count in `label` (`freqbench.ops.voxels`) are left out; None: all count. Raises UserError if
    shapes differ."""
    before = as_tensor(pred_clean)
    after = as_tensor(pred)
    require_same_shape(before.shape, after.shape)
    differs = before.to(after.device) != after
    counts = None if label is None else counted(as_tensor(label))
    return float((differs if counts is None else differs[counts.to(differs.device)]).double().mean())


def class_mean(values: Values) -> float:
    """Returns the mean of `values` `[K]` over all classes with background (the published convention); NaN is left out
    unless all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def foreground_mean(values: Values) -> float:
    """Returns the mean of `values` `[K]` over the classes other than background, without NaN; NaN if all are NaN."""
    return class_mean(values[1:])


def undefined_classes(values: Values) -> int:
    """Counts the classes whose `values` are NaN and so drop out of a mean (background included)."""
    return int(np.isnan(values).sum())


def certified_scores(pred: Tensor, certified: Tensor, label: Tensor, num_classes: int) -> dict[str, float]:
    r"""Returns the share of certified voxels, and the Dice of the certified part, mean over the label's organs.

    With P_k the certified voxels that are predicted as class k, L_k the voxels with label k and A those that abstain:

    .. math:: d_k = \frac{2 |P_k \cap L_k|}{|P_k| + |L_k|}, \qquad
              b_k = \frac{2 |P_k \cap L_k|}{|P_k| + |L_k| + |A \setminus L_k|}

    `certified_dice` is the mean of d_k: abstaining counts as a class of its own that is never right, as in the
    certified accuracy and IoU of Fischer et al. (ICML 2021, arXiv:2107.00228). It does not bound the Dice, as voxels
    that abstain outside L_k may be predicted as k. `certified_dice_bound` is the mean of b_k, a lower bound of the Dice
    of class k under any change within the certified radius: predicting k on A outside L_k is the worst case.

    Values are 0 to 1; both Dice are NaN if the label has no foreground.

    Args:
        pred: the certificate's classes `[H, W, D]`, read where `certified` is True.
        certified: the voxels that do not abstain, bool `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included.
    """
    certified = certified.to(pred.device)
    kept = counted(label, num_classes + 1)
    if kept is not None:
        pred, certified, label = (each[kept.to(each.device)].reshape(1, 1, -1) for each in (pred, certified, label))
    # One extra class holds the voxels that abstain.
    seen = torch.where(certified, pred.long(), num_classes)
    counts = confusion(seen, label.long(), num_classes + 1).double().cpu().numpy()
    in_label = counts.sum(axis=1)[:-1]
    in_pred = counts.sum(axis=0)[:-1]
    right = counts.diagonal()[:-1]
    beyond = counts[:, -1].sum() - counts[:-1, -1]  # voxels that abstain outside the class
    both = in_pred + in_label
    dices = _ratio(2 * right, both, in_label)
    bounds = _ratio(2 * right, both + beyond, in_label)
    return {
        "certified_share": float(certified.double().mean()),
        "certified_dice": foreground_mean(dices),
        "certified_dice_bound": foreground_mean(bounds),
    }


def _ratio(above: Values, below: Values, in_label: Values) -> Values:
    """Divides by class; NaN if the label does not have the class."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=in_label > 0)
