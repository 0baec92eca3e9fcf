r"""Defines the losses of networks with one sigmoid output a region, by the names that they have for exclusive classes.

With z the K logits of a voxel, y its membership of each region (0 or 1), s = 2 y - 1, p = sigmoid(z), and
:math:`p_y = \mathrm{sigmoid}(s z)` the probability of what the label says about a region. Logits are `[B, K, H, W, D]`,
labels codes `[B, 1, H, W, D]` (`freqbench.ops.regions`); a scope restricts voxels, and by `classes` the outputs. A mean
over regions replaces the mean over classes. `dlr` and `dlr-targeted` compare a logit with those of other classes, of
which a region has none: they have no such form.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.ops.losses import EVERYTHING, MARGIN, SMOOTH_DENOMINATOR, SMOOTH_SET, Loss, Scope, js_of, weighted_mean
from freqbench.ops.losses import voxel_mean as mean_over_voxels
from freqbench.ops.regions import inside


def voxel_mean(values: Tensor, scope: Scope) -> Tensor:
    """Returns the mean of values `[B, K, H, W, D]` over the regions and voxels that count in `scope`, `[B]`."""
    values = values if scope.classes is None else values.index_select(1, scope.classes)
    return mean_over_voxels(values.mean(dim=1), scope)


def voxel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Returns the binary cross-entropy :math:`-\log p_y` of every region and voxel, `[B, K, H, W, D]`, of `logits`
    against `labels`, codes of regions `[B, 1, H, W, D]`."""
    return F.softplus(-_signed(logits, labels))


def is_as_labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns True for each region and voxel that is predicted as labelled, bool `[B, K, H, W, D]`, both at 0."""
    return _signed(logits, labels) >= 0


def ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns the binary cross-entropy of each sample, `[B]`, of `logits` against `labels`: the mean over voxels and
    regions in `scope`."""
    return voxel_mean(voxel_cross_entropy(logits, labels), scope)


def dice(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the Dice loss of each sample, `[B]`, of `logits` against `labels`: the mean over regions in `scope`.

    .. math:: \frac1K \sum_k \Bigl[1 - \frac{2 \sum p_k y_k}{\sum p_k^2 + \sum y_k + 10^{-6}}\Bigr]

    The mean over samples is MONAI's `DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6)`.
    """
    overlap, squares, size = _sums(logits.sigmoid(), labels, scope, power=2)
    terms = 1 - 2 * overlap / (squares + size + SMOOTH_DENOMINATOR)
    return (terms if scope.classes is None else terms.index_select(1, scope.classes)).mean(dim=1).to(logits.dtype)


def dice_ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns `dice` + `ce` of `logits` against `labels` in `scope`, `[B]`.

    It is MONAI's `DiceLoss(sigmoid=True)` plus PyTorch's `BCEWithLogitsLoss`. MONAI's own `DiceCELoss(sigmoid=True)`
    takes the binary cross-entropy for one region alone; for more it has a softmax across regions, which overlap, so
    that ours differs there. nnU-Net's loss of regions has the Dice of `dice_linear`.
    """
    return dice(logits, labels, scope) + ce(logits, labels, scope)


def dice_linear(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the Dice loss with linear denominators, `[B]`, the mean over the K' regions of the sample's labels.

    .. math:: 1 - \frac{1}{K'} \sum_k \frac{2 \sum p_k y_k}{\sum p_k + \sum y_k}
    """
    overlap, sums, size = _sums(logits.sigmoid(), labels, scope, power=1)
    scores = 2 * overlap / (sums + size + SMOOTH_DENOMINATOR)
    weights = (size > 0).double()
    if scope.classes is not None:
        scores = scores.index_select(1, scope.classes)
        weights = weights.index_select(1, scope.classes)
    return (1 - weighted_mean(scores, weights)).to(logits.dtype)


def balance(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns weights by region and voxel, of `labels` in `scope` for `logits`: a sum with them is the mean of each
    mean inside and outside of a region."""
    within = inside(labels, logits.shape[1])
    sides = torch.stack([scope.among(within), scope.among(~within)], dim=1)  # [B, 2, K, H, W, D]
    size = sides.flatten(3).sum(dim=3)
    present = (size > 0).sum(dim=(1, 2), keepdim=True).clamp(min=1).to(logits)
    share = (1 / present) / size.clamp(min=1)
    return (sides * share.reshape(*size.shape, *[1] * (sides.dim() - 3))).sum(dim=1)


def margin(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the balanced margin of the signed logits in `scope`, cut off at 2, `[B]`.

    The mean over regions k and sides c (voxels inside, voxels outside), as far as the sample's labels hold them:

    .. math:: \frac{1}{|\{(k, c) : N_{kc} > 0\}|} \sum_{k, c} \frac{1}{N_{kc}} \sum_{y_k = c} \min(-s_k z_k, 2)
    """
    return margin_of(logits, labels, scope, -_signed(logits, labels))


def margin_of(logits: Tensor, labels: Tensor, scope: Scope, m: Tensor) -> Tensor:
    """Returns `margin` from the margins m of regions and voxels, which `flips` has made of `logits`, `labels` and
    `scope`, `[B]`."""
    return (balance(logits, labels, scope) * m.clamp(max=MARGIN)).flatten(1).sum(dim=1)


def flips(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the margin -s z of each region and voxel of `logits`, which `labels` sign, and what its flip takes from
    the hard Dice in `scope`, `[B, K, H, W, D]`: :math:`(2 - D_k) / (N_k + P_k)` inside, :math:`D_k / (N_k + P_k)`
    outside (letters of `losses.flips`)."""
    pred = logits > 0
    within = inside(labels, logits.shape[1])
    voxels = torch.ones_like(pred[:, :1]) if scope.voxels is None else scope.voxels
    N = _number(within, voxels)  # [B, K], as all but `share` and `none` below
    P = _number(pred, voxels)
    both = (N + P).clamp(min=1)
    D = 2 * _number(within & pred, voxels) / both
    counts = N > 0
    if scope.classes is not None:
        counts &= torch.isin(torch.arange(logits.shape[1], device=logits.device), scope.classes)
    none = ~counts.any(dim=1, keepdim=True)
    share = 1 / voxels.flatten(1).sum(dim=1, keepdim=True).clamp(min=1).double()  # the cost of each voxel, if none

    def by_voxel(part: Tensor) -> Tensor:
        cost = torch.where(none, share, counts * part / both)
        return cost.to(logits).reshape(*cost.shape, *[1] * (logits.dim() - 2)) * voxels

    return -_signed(logits, labels), by_voxel(2 - D) * within, by_voxel(D) * ~within


def mask_ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns the binary cross-entropy of `logits` against `labels` of regions and voxels in `scope` that are still
    right (towards a target: wrong), `[B]`."""
    return voxel_mean(voxel_cross_entropy(logits, labels) * _is_open(logits, labels, scope), scope)


def mask_ce_balanced(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns `mask_ce` of `logits` against `labels` in `scope` with the mean over regions and sides of `margin`,
    `[B]`."""
    open_ce = voxel_cross_entropy(logits, labels) * _is_open(logits, labels, scope)
    return (balance(logits, labels, scope) * open_ce).flatten(1).sum(dim=1)


def js(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the Jensen-Shannon divergence of (p, 1 - p) by `logits` and (y, 1 - y) by `labels`, mean over regions
    and voxels in `scope`, `[B]`.

    .. math:: \log 2 + \tfrac12 \bigl( p_y \log p_y - (1 + p_y) \log (1 + p_y) \bigr)
    """
    return voxel_mean(js_of(-voxel_cross_entropy(logits, labels)), scope)


def cosine_to_label(p: Tensor, labels: Tensor) -> Tensor:
    r"""Returns the cosine of (p, 1 - p) and (y, 1 - y), y by `labels`, for p `[B, K, H, W, D]`, in its shape.

    .. math:: \frac{p_y}{\sqrt{p_y^2 + (1 - p_y)^2}}
    """
    p = _of_label(p, labels)
    return p / (p.square() + (1 - p).square()).sqrt()


def cosine(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns one minus `cosine_to_label` against `labels`, mean over regions and voxels in `scope`, `[B]` in [0, 1].

    .. math:: 1 - \frac{p_y}{\sqrt{p_y^2 + (1 - p_y)^2}}

    Of exclusive classes, the cosine is one of logits. A region has one, whose cosine is its sign, without a gradient.
    """
    return voxel_mean(1 - cosine_to_label(logits.sigmoid(), labels), scope)


def dice_of_set(p: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    """Returns `freqbench.ops.losses.dice_of_set` of p against `labels` over `members`, pairs of region and voxel, bool
    `[B, K, H, W, D]`: a scalar."""
    weights = members.to(p)
    p = _of_label(p, labels)
    squares = weights * (p.square() + (1 - p).square())
    return 1 - (2 * (weights * p).sum() + SMOOTH_SET) / (weights.sum() + squares.sum() + SMOOTH_SET)


def mean_dice(
    logits: Tensor, labels: Tensor, classes: Sequence[int] | None = None, voxels: Tensor | None = None
) -> Tensor:
    """Returns the mean Dice of the predicted regions (logit above 0) of each sample, float64 `[B]` in [0, 1], without a
    gradient. Arguments are those of `losses.mean_dice`, with regions from 1 in `classes`; labels without any region
    give the share of right pairs of region and voxel."""
    pred = logits > 0
    true = inside(labels, logits.shape[1])
    counts = torch.ones_like(pred[:, :1]) if voxels is None else voxels
    size = _number(true, counts)
    scores = 2 * _number(pred & true, counts) / (size + _number(pred, counts)).clamp(min=1)
    weights = torch.zeros_like(size)
    for k in range(1, size.shape[1] + 1) if classes is None else classes:
        weights[:, k - 1] = 1
    weights *= size > 0
    mean = weighted_mean(scores, weights)
    right = ((pred == true) & counts).flatten(1).sum(dim=1)
    share = right / (counts.flatten(1).sum(dim=1) * size.shape[1]).clamp(min=1)
    return mean if classes is not None else torch.where(weights.any(dim=1), mean, share.double())


def _number(flags: Tensor, voxels: Tensor) -> Tensor:
    """Returns the number of voxels, of those that count, with each region's flag, float64 `[B, K]`."""
    return (flags & voxels).flatten(2).sum(dim=2).double()


def _signed(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns s z, above 0 where the prediction is as labelled."""
    return torch.where(inside(labels, logits.shape[1]), logits, -logits)


def _of_label(p: Tensor, labels: Tensor) -> Tensor:
    return torch.where(inside(labels, p.shape[1]), p, 1 - p)


def _is_open(logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
    as_labelled = is_as_labelled(logits.detach(), labels)
    return as_labelled if scope.truth is None else ~as_labelled


def _sums(p: Tensor, labels: Tensor, scope: Scope, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the sums of p y, of p to a power and of y over the voxels that count, float64 `[B, K]`."""
    y = inside(labels, p.shape[1]).flatten(2)
    p = p.flatten(2)
    if scope.voxels is not None:
        counts = scope.voxels.flatten(2)
        y = y & counts
        p = p * counts
    double = torch.float64
    return (p * y).sum(dim=2, dtype=double), p.pow(power).sum(dim=2, dtype=double), y.sum(dim=2, dtype=double)


LOSSES: Mapping[str, Loss] = {  # each `[B]`, high where the prediction is far from the labels
    "ce": ce,
    "dice": dice,
    "dicece": dice_ce,
    "mask-ce": mask_ce,
    "mask-ce-balanced": mask_ce_balanced,
    "js": js,
    "cosine": cosine,
    "margin": margin,
    "dice_linear": dice_linear,
}
