"""Losses that are means over voxels: cross-entropy, also masked, difference of logits ratio, Jensen-Shannon, cosine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.ops.voxelwise import is_as_labelled


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What of a sample a loss looks at, and what it needs beside logits and labels.

    Attributes:
        voxels: the only ones that count, bool `[B, 1, H, W, D]`; None: all. A sample without any has the loss 0 and no
            gradient (the Dice, a constant and no gradient).
        classes: the only ones in a mean over classes, indices `[k]`; None: all.
        truth: the true labels, `[B, 1, H, W, D]`, where `labels` are a target to reach, or None.
    """

    voxels: Tensor | None = None
    classes: Tensor | None = None
    truth: Tensor | None = None

    def among(self, members: Tensor) -> Tensor:
        """Those of a set of voxels that count, bool `[B, 1, H, W, D]`."""
        return members if self.voxels is None else members & self.voxels


EVERYTHING = Scope()

FEWEST_CLASSES: Mapping[str, int] = {"dlr": 3, "dlr-targeted": 4}


def ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Cross-entropy of each sample, :math:`\frac1N \sum -\log p_{label}` with p the softmax over classes.

    Args:
        logits: `[B, K, H, W, D]`, any spatial rank.
        labels: integers 0 to K - 1, `[B, 1, H, W, D]`.
        scope: what counts of it.

    Returns:
        `[B]`.
    """
    return voxel_mean(voxel_cross_entropy(logits, labels), scope)


def dlr(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Difference of logits ratio, voxel by voxel (Croce and Hein, ICML 2020, arXiv:2003.01690).

    With z the logits of a voxel, y its label, and pi their order from the largest down:

    .. math:: \mathrm{DLR} = - \frac{z_y - \max_{i \ne y} z_i}{z_{\pi_1} - z_{\pi_3}}

    It does not change when logits are shifted or scaled, so that a network cannot hide its gradient by large logits. A
    voxel that is right has a value in [-1, 0], one that is wrong above 0: below 1 where its label comes second, without
    bound where it comes fourth or later, so that few voxels may outweigh all others in the mean. Same arguments as
    `ce`, mean over voxels.

    **Differs from the paper**: 1e-12 is added to the denominator, as in the authors' code.

    Raises:
        UserError: fewer than 3 classes.
    """
    _require_classes("dlr", logits)
    top, order = logits.topk(3, dim=1)
    own = logits.gather(1, labels.long())
    # By index: of equal logits, `own >= top` may take the label's own for the other one, which has no gradient.
    other = torch.where(order[:, :1] == labels, top[:, 1:2], top[:, :1])
    return voxel_mean((other - own)[:, 0] / (top[:, 0] - top[:, 2] + 1e-12), scope)


def dlr_targeted(logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
    r"""Targeted difference of logits ratio, voxel by voxel (Croce and Hein, ICML 2020, arXiv:2003.01690).

    With y the true label (`scope.truth`) and t the target (`labels`):

    .. math:: \frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

    which is the paper's loss times -1: like every loss here it is high far from `labels`, and an attack on a target
    lowers it. A voxel whose target is its true label adds 0. Same arguments as `ce`, mean over voxels.

    **Differs from the paper**: 1e-12 is added to the denominator, as in the authors' code.

    Raises:
        UserError: fewer than 4 classes, or no `scope.truth`.
    """
    _require_classes("dlr-targeted", logits)
    if scope.truth is None:
        raise UserError("dlr-targeted: expected the true labels beside the target: give a target rule with it")
    top = logits.topk(4, dim=1).values
    true, target = (logits.gather(1, classes.long())[:, 0] for classes in (scope.truth, labels))
    return voxel_mean((true - target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12), scope)


def mask_ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Cross-entropy on voxels that are still predicted right alone (Croce et al., ECCV 2024, arXiv:2306.12941).

    .. math:: \frac1N \sum [\arg\max z = y] \, (-\log p_y)

    N counts all voxels. Voxels that are wrong already pull no further; for the same reason a lower value may be a
    worse prediction, and iterates are compared by `ce` (`COMPARED_BY`). Towards a target (`scope.truth` is given), the
    voxels that are not there yet. Where two classes share the largest logit, both are taken as predicted. Same
    arguments as `ce`.
    """
    return voxel_mean(voxel_cross_entropy(logits, labels) * _is_open(logits, labels, scope), scope)


def mask_ce_balanced(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""`mask_ce` with every class at the same weight (Croce et al., ECCV 2024, arXiv:2306.12941).

    With N_k the voxels of class k and the mean over the classes that the sample has:

    .. math:: \frac{1}{|\{k : N_k > 0\}|} \sum_k \frac{1}{N_k} \sum_{y = k} [\arg\max z = y] \, (-\log p_y)

    Same arguments as `ce`.

    **Differs from the paper**: N_k is counted in the sample; there, it is a constant of the dataset.
    """
    open_ce = (voxel_cross_entropy(logits, labels) * _is_open(logits, labels, scope)).flatten(1)
    index = labels.flatten(1).long()
    counts = torch.ones_like(open_ce) if scope.voxels is None else scope.voxels.flatten(1).to(open_ce)
    per_class = open_ce.new_zeros(len(logits), logits.shape[1])
    size = per_class.scatter_add(1, index, counts)
    loss = per_class.scatter_add(1, index, open_ce * counts)
    return (loss / size.clamp(min=1)).sum(dim=1) / (size > 0).sum(dim=1).clamp(min=1)


def js(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Jensen-Shannon divergence between softmax and one-hot label (Croce et al., ECCV 2024, arXiv:2306.12941).

    Half of KL(p, m) + KL(o, m) with m = (p + o) / 2, natural logarithm, mean over voxels. As o is one-hot, a voxel's
    value hangs on p at its label alone:

    .. math:: \log 2 + \tfrac12 \bigl( p_y \log p_y - (1 + p_y) \log (1 + p_y) \bigr) \in [0, \log 2]

    Its gradient vanishes for voxels that are far wrong, without a mask. Same arguments as `ce`.
    """
    log_p = -voxel_cross_entropy(logits, labels)
    p = log_p.exp()
    return voxel_mean(math.log(2) + (p * log_p - (1 + p) * p.log1p()) / 2, scope)


def cosine(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""One less the cosine between logits and one-hot label (Halmosi et al., ECCV 2024, arXiv:2407.09150).

    .. math:: 1 - \frac{z_y}{\lVert z \rVert_2} \in [0, 2]

    It does not change when logits are scaled, but, unlike a softmax, it does when they are shifted. Same arguments as
    `ce`, mean over voxels.
    """
    norm = torch.linalg.vector_norm(logits, dim=1)
    return voxel_mean(1 - logits.gather(1, labels.long())[:, 0] / norm.clamp(min=1e-8), scope)


def voxel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of the label in every voxel, `[B, H, W, D]`; same arguments as `ce`."""
    return F.cross_entropy(logits, labels[:, 0].long(), reduction="none")


def _is_open(logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
    """Whether a voxel is still to be changed, `[B, H, W, D]`."""
    as_labelled = is_as_labelled(logits.detach(), labels)[:, 0]
    return as_labelled if scope.truth is None else ~as_labelled


def voxel_mean(values: Tensor, scope: Scope) -> Tensor:
    """The mean over the voxels that count, `[B]`; 0 where none does.

    Args:
        values: of every voxel, `[B, H, W, D]`.
        scope: which count.
    """
    if scope.voxels is None:
        return values.flatten(1).mean(dim=1)
    counts = scope.voxels.flatten(1)
    return (values.flatten(1) * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def _require_classes(loss: str, logits: Tensor) -> None:
    if logits.shape[1] < FEWEST_CLASSES[loss]:
        raise UserError(f"{loss}: expected at least {FEWEST_CLASSES[loss]} classes, got {logits.shape[1]}: use ce")
