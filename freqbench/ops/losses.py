"""Defines the losses that attacks raise, one value per sample, their voxelwise parts, and the Dice that judges them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.core.errors import UserError

SMOOTH_DENOMINATOR = 1e-6
SMOOTH_SET = 1e-5
MARGIN = 2.0
SLAB = 2**20  # logits


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Restricts a loss to voxels and classes of a sample, and holds its inputs beside logits and labels.

    Attributes:
        voxels: the only voxels that count, bool `[B, 1, H, W, D]`; None: all. If there are none, the loss is 0, the
            Dice a constant, and there is no gradient.
        classes: the only classes in a mean over classes, indices of outputs `[k]`; None: all.
        truth: the true labels, `[B, 1, H, W, D]`, if `labels` are a target to reach; else None.
    """

    voxels: Tensor | None = None
    classes: Tensor | None = None
    truth: Tensor | None = None

    def among(self, members: Tensor) -> Tensor:
        """Returns the voxels of a set that count, bool `[B, 1, H, W, D]`; of flags of regions, those of `classes`."""
        members = members if self.voxels is None else members & self.voxels
        if self.classes is None or members.shape[1] == 1:
            return members
        left_out = torch.ones(members.shape[1], dtype=torch.bool, device=members.device)
        left_out[self.classes] = False
        return members.masked_fill(left_out.reshape(-1, *[1] * (members.dim() - 2)), False)


EVERYTHING = Scope()

Loss = Callable[[Tensor, Tensor, Scope], Tensor]

FEWEST_CLASSES: Mapping[str, int] = {"dlr": 3, "dlr-targeted": 4}  # attacks check it before they call a loss


def dice_ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns Dice plus cross-entropy of each sample, `[B]`, on the softmax, background included; differentiable once.

    With p = softmax(logits) over the K classes, o = one-hot labels, and sums over the N voxels of one sample:

    .. math:: L_b = \frac1K \sum_k \Bigl[1 - \frac{2 \sum p_k o_k}{\sum p_k^2 + \sum o_k + 10^{-6}}\Bigr]
                    + \frac1N \sum -\log p_{label}

    As in the code released with VAFA (Hanif et al., MICCAI 2023, arXiv 2307.07269) and SA2 (Hanif et al., ISBI 2025); a
    class that a sample lacks adds 1 to its mean. The mean over samples is MONAI's `DiceCELoss(softmax=True,
    to_onehot_y=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6)`.

    Like every loss here it takes logits `[B, K, H, W, D]` of any spatial rank, labels `[B, 1, H, W, D]` in 0..K-1, and
    a scope: sums run over its voxels, the Dice's mean over its classes. No gradient depends on the rest of the batch.
    """
    if scope.voxels is not None or scope.classes is not None:
        return dice(logits, labels, scope) + ce(logits, labels, scope)
    return _Dice.apply(logits, labels, True)  # type: ignore[no-untyped-call]


def dice(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns the Dice part of `dice_ce` alone, `[B]`, of `logits` `[B, K, H, W, D]` against `labels` `[B, 1, H, W, D]`
    in `scope`."""
    if scope.voxels is None and scope.classes is None:
        return _Dice.apply(logits, labels, False)  # type: ignore[no-untyped-call]
    p = torch.softmax(logits, dim=1)
    batch, num_classes = p.shape[:2]
    index = labels.reshape(batch, -1).long()  # [B, N]
    counts = _counting(p, scope)
    p = p.flatten(2)
    overlap = _per_class(p.gather(1, index[:, None])[:, 0] * counts, index, num_classes)
    count = _per_class(counts, index, num_classes)
    squares = (p.square() if scope.voxels is None else p.square() * counts[:, None]).sum(dim=2)
    terms = (1 - 2 * overlap / (squares + count + SMOOTH_DENOMINATOR)).to(p.dtype)
    return terms.mean(dim=1) if scope.classes is None else terms[:, scope.classes].mean(dim=1)


class _Dice(torch.autograd.Function):
    """Computes the Dice over everything, `with_ce` plus cross-entropy; keeps the softmax, and that of labels."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, with_ce: bool) -> Tensor:
        batch, num_classes, height = logits.shape[:3]
        index = labels.reshape(batch, 1, height, -1).long()  # [B, 1, H, W D], as all volumes here
        log_p = torch.log_softmax(logits, dim=1).reshape(batch, num_classes, height, -1)
        log_p_label = log_p.gather(1, index)
        p = log_p.exp_()
        p_label = log_p_label.exp()

        overlap = _per_class(p_label.flatten(1), index.flatten(1), num_classes)
        count = _per_class(torch.ones_like(p_label).flatten(1), index.flatten(1), num_classes)
        wide = torch.promote_types(p.dtype, torch.float32)  # for half precisions, which the norm would keep
        norms = torch.linalg.vector_norm(p, dim=3, dtype=wide)  # float32 sums over a slice, float64 over slices
        denominator = norms.double().square().sum(dim=2) + count + SMOOTH_DENOMINATOR
        dice = (1 - 2 * overlap / denominator).mean(dim=1)

        ctx.save_for_backward(p, p_label, index, overlap, denominator)
        ctx.shape = logits.shape
        ctx.with_ce = with_ce
        return (dice - log_p_label.flatten(1).mean(dim=1).double() if with_ce else dice).to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        *volumes, overlap, denominator = ctx.saved_tensors
        gradients = torch.empty_like(volumes[0])
        # With g = dL/dp = a p - c o for the Dice part, dL/dlogits = p (g - sum_k p g) + (p - o) / N. The order of the
        # operations is that of a softmax's and a cross-entropy's own backward: where p rounds to 1, signs depend on it.
        # So does p - 1, which is exact there, while p / N - 1 / N is rounded where weight / N is no power of two.
        weight = upstream.double()[:, None]
        num_classes = gradients.shape[1]
        a = weight * 4 * overlap / (num_classes * denominator.square())
        c = weight * 2 / (num_classes * denominator)
        a, c, each = (part.to(gradients)[:, :, None, None] for part in (a, c, weight / ctx.shape[2:].numel()))

        for gradient, p, p_label, index in _slabs(gradients, *volumes):
            torch.mul(a, p, out=gradient).scatter_add_(1, index, -c.expand_as(p).gather(1, index))
            inner = torch.zeros_like(p_label)
            for k in range(num_classes):
                inner.addcmul_(gradient[:, k, None], p[:, k, None])
            gradient.sub_(inner).mul_(p)
            if ctx.with_ce:
                at_label = gradient.gather(1, index) + (p_label - 1) * each
                gradient.addcmul_(p, each).scatter_(1, index, at_label)
        return gradients.reshape(ctx.shape), None, None


def ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the cross-entropy of each sample, `[B]`, of `logits` `[B, K, H, W, D]` against `labels` `[B, 1, H, W,
    D]` in `scope`: :math:`\frac1N \sum -\log p_{label}` with p the softmax."""
    return voxel_mean(voxel_cross_entropy(logits, labels), scope)


def dlr(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the difference of logits ratio, mean over the voxels in `scope`, `[B]` (Croce and Hein, ICML 2020,
    arXiv:2003.01690), of `logits` `[B, K, H, W, D]` against `labels` `[B, 1, H, W, D]`.

    With z the logits of a voxel, y its label, and pi their order from the largest down:

    .. math:: \mathrm{DLR} = - \frac{z_y - \max_{i \ne y} z_i}{z_{\pi_1} - z_{\pi_3}}

    Shifting or scaling logits does not change it, so that a network cannot hide its gradient behind large logits. A
    correct voxel has a value in [-1, 0], a wrong one above 0: below 1 if its label comes second, without bound if it
    comes fourth or later, so that a few voxels may outweigh all others in the mean.

    **Differs from the paper**: 1e-12 is added to the denominator, as in the authors' code. It needs 3 classes or more.
    """
    top, order = logits.topk(3, dim=1)
    of_label = logits.gather(1, labels.long())
    # By index: with equal logits, `of_label >= top` may pick the label's logit as the other one, which has no gradient.
    other = torch.where(order[:, :1] == labels, top[:, 1:2], top[:, :1])
    return voxel_mean((other - of_label)[:, 0] / (top[:, 0] - top[:, 2] + 1e-12), scope)


def dlr_targeted(logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
    r"""Returns the targeted difference of logits ratio, mean over voxels (Croce and Hein, ICML 2020, arXiv:2003.01690).

    With y the true label (`scope.truth`) and t the target (`labels`):

    .. math:: \frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

    which is the paper's loss times -1: high far from `labels`, like every loss here; with 1e-12 as in `dlr`. A voxel
    whose target is its true label adds 0. It needs 4 classes or more.
    """
    if scope.truth is None:
        raise UserError("dlr-targeted: expected the true labels beside the target: give a target rule with it")
    top = logits.topk(4, dim=1).values
    true, target = (logits.gather(1, classes.long())[:, 0] for classes in (scope.truth, labels))
    return voxel_mean((true - target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12), scope)


def mask_ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the cross-entropy of `logits` `[B, K, H, W, D]` against `labels` `[B, 1, H, W, D]` on voxels still
    predicted correctly, `[B]` (Croce et al., ECCV 2024, arXiv:2306.12941).

    .. math:: \frac1N \sum [\arg\max z = y] \, (-\log p_y)

    N counts all voxels. Voxels that are already wrong pull no further. For the same reason a lower value may be a worse
    prediction, so iterates are compared by `ce` (`COMPARED_BY`). With a target (`scope.truth` is given), the voxels
    that have not reached it count. If two classes share the largest logit, both count as predicted.
    """
    return voxel_mean(voxel_cross_entropy(logits, labels) * _is_open(logits, labels, scope), scope)


def _per_class(values: Tensor, index: Tensor, num_classes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns the sum of values `[B, N]` over the voxels of each class, `[B, K]`, the same in every run.

    A GPU adds up a mask of each class, by pairs: its `scatter_add` would have all voxels wait for a few addresses, in
    an order that changes. A CPU adds one by one, a million values: in float32 they would be off in the third digit.
    """
    if not _takes_all(values):
        return values.new_zeros(len(values), num_classes, dtype=dtype).scatter_add(1, index, values.to(dtype))
    small = torch.int16 if num_classes <= 2**15 else torch.int64
    classes = torch.arange(num_classes, dtype=small, device=values.device)
    of_class = index[:, None].to(small) == classes[:, None]  # [B, K, N]
    return torch.where(of_class, values[:, None], 0).sum(dim=2).to(dtype)


def _counting(like: Tensor, scope: Scope) -> Tensor:
    """Returns 1 for each voxel that counts, else 0, `[B, N]`, for values `[B, K, ...]` of N voxels in their dtype."""
    return torch.ones_like(like[:, 0]).flatten(1) if scope.voxels is None else scope.voxels.flatten(1).to(like)


def balance(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """Returns weights of voxels, `[B, 1, H, W, D]`, by `labels` in `scope`, on the grid and in the dtype of `logits`: a
    sum with them is the mean over classes of each class's mean."""
    index = labels.flatten(1).long()
    counts = _counting(logits, scope)
    size = _per_class(counts, index, logits.shape[1], logits.dtype)
    present = (size > 0).sum(dim=1, keepdim=True).clamp(min=1).to(logits)
    return (((1 / present) / size.clamp(min=1)).gather(1, index) * counts).reshape(labels.shape)


def mask_ce_balanced(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns `mask_ce` of `logits` `[B, K, H, W, D]` against `labels` `[B, 1, H, W, D]` in `scope` with equal weights
    for all classes, `[B]` (Croce et al., ECCV 2024, arXiv:2306.12941).

    With N_k the voxels of class k in the sample (the paper has a constant of the dataset), and the mean over the
    sample's classes:

    .. math:: \frac{1}{|\{k : N_k > 0\}|} \sum_k \frac{1}{N_k} \sum_{y = k} [\arg\max z = y] \, (-\log p_y)
    """
    open_ce = voxel_cross_entropy(logits, labels) * _is_open(logits, labels, scope)
    return (balance(logits, labels, scope)[:, 0] * open_ce).flatten(1).sum(dim=1)


def js(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the Jensen-Shannon divergence of softmax and label, `[B]`, of `logits` `[B, K, H, W, D]` against
    `labels` `[B, 1, H, W, D]` in `scope` (Croce et al., ECCV 2024, arXiv:2306.12941).

    It is half of KL(p, m) + KL(o, m) with m = (p + o) / 2, natural logarithm, mean over voxels. As o is one-hot, a
    voxel's value depends only on p at its label:

    .. math:: \log 2 + \tfrac12 \bigl( p_y \log p_y - (1 + p_y) \log (1 + p_y) \bigr) \in [0, \log 2]

    Its gradient vanishes for voxels that are far wrong, without a mask.
    """
    return voxel_mean(js_of(-voxel_cross_entropy(logits, labels)), scope)


def js_of(log_p: Tensor) -> Tensor:
    """Returns the divergence of `js` of each voxel, in the shape of `log_p`, the logarithm of the label's p."""
    p = log_p.exp()
    return math.log(2) + (p * log_p - (1 + p) * p.log1p()) / 2


def cosine(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns one minus the cosine between `logits` `[B, K, H, W, D]` and one-hot `labels` in `scope`, `[B]` (Halmosi
    et al., ECCV 2024, arXiv:2407.09150).

    .. math:: 1 - \frac{z_y}{\lVert z \rVert_2} \in [0, 2]

    It is a mean over voxels. Scaling the logits does not change it; shifting them does, unlike for a softmax.
    """
    norm = torch.linalg.vector_norm(logits, dim=1)
    return voxel_mean(1 - logits.gather(1, labels.long())[:, 0] / norm.clamp(min=1e-8), scope)


def margin(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the class-balanced margin of the logits, cut off at 2, `[B]`, over the voxels in `scope`.

    With z the logits of a voxel, y its label, and the mean over the classes k that the sample's labels hold:

    .. math:: \frac{1}{|\{k : N_k > 0\}|} \sum_k \frac{1}{N_k} \sum_{y = k} \min\bigl(\max_{i \ne y} z_i - z_y, 2\bigr)

    A voxel is wrong above 0; from 2 on it has no gradient, so that the attack moves on to voxels that it can still win.
    """
    m, _ = _Lead.apply(logits, labels.long())  # type: ignore[no-untyped-call]
    return margin_of(logits, labels, scope, m)


def margin_of(logits: Tensor, labels: Tensor, scope: Scope, m: Tensor) -> Tensor:
    """Returns `margin` from the margins m of the voxels, which `flips` has made of `logits`, `labels` and `scope`,
    `[B]`."""
    return (balance(logits, labels, scope) * m.clamp(max=MARGIN)).flatten(1).sum(dim=1)


def flips(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns the margin of each voxel of `logits` `[B, K, H, W, D]` against `labels` `[B, 1, H, W, D]` and what its
    flip takes from the hard Dice, in two parts: `[B, 1, H, W, D]`.

    The margin :math:`m = \max_{i \ne y} z_i - z_y` has a gradient; a voxel is wrong above 0. With N_k the voxels of
    label k, P_k those of prediction k, D_k their Dice, y a voxel's label and j the class that it would become (of a
    wrong voxel: the class that it has), the parts are, to first order and without a gradient,

    .. math:: \frac{2 - D_y}{N_y + P_y} \qquad\text{and}\qquad \frac{D_j}{N_j + P_j}

    and 0 for classes that do not count (`mean_dice`). In a sample without a class that counts, each voxel costs the
    same, by the first part. Voxels out of scope cost nothing.
    """
    index = labels.long()
    m, other = _Lead.apply(logits, index)  # type: ignore[no-untyped-call]
    pred = torch.where(m.detach() > 0, other, index).flatten(1)
    true = index.flatten(1)
    both, hits, labelled = _counts(pred, true, logits.shape[1], scope.voxels)
    counts = labelled > 0
    if scope.classes is None:
        counts[:, 0] = False
    else:
        counts &= torch.isin(torch.arange(counts.shape[1], device=counts.device), scope.classes)
    both = both.clamp(min=1)
    dice = 2 * hits / both
    none = ~counts.any(dim=1, keepdim=True)
    own = torch.where(none, 1 / labelled.sum(dim=1, keepdim=True).clamp(min=1), counts * (2 - dice) / both)
    mine = own.to(m).gather(1, true).reshape(index.shape)
    others = (counts * dice / both).to(m).gather(1, other.flatten(1)).reshape(index.shape)
    if scope.voxels is None:
        return m, mine, others
    return m, mine * scope.voxels, others * scope.voxels


class _Lead(torch.autograd.Function):
    """Computes how far the largest logit of another class is ahead of the label's, and the first class that has it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        m = []
        other = []
        for z, y in _slabs(logits, index):
            others = z.scatter(1, y, -torch.inf)
            largest, of_class = _largest(others)
            m.append(largest - z.gather(1, y))
            other.append(of_class)
        ctx.shape = logits.shape
        leads = torch.cat(m, dim=2)
        classes = torch.cat(other, dim=2)
        ctx.save_for_backward(index, classes)
        ctx.mark_non_differentiable(classes)
        return leads, classes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None]:
        index, other = ctx.saved_tensors
        return upstream.new_zeros(ctx.shape).scatter_(1, other, upstream).scatter_(1, index, -upstream), None


def _takes_all(tensor: Tensor) -> bool:
    """True where a loss takes all voxels at once: on a GPU, and in a compiled form, which has no use for slabs."""
    return tensor.is_cuda or torch.compiler.is_compiling()


def _slabs(*volumes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cuts logits `[B, K, H, W, D]`, and what has their grid, along H, so that a CPU's cache holds a part; no GPU's."""
    first = volumes[0]
    rows = len(first[0, 0]) if _takes_all(first) else max(1, SLAB // first[:, :, 0].numel())
    return zip(*(torch.split(volume, rows, dim=2) for volume in volumes), strict=True)


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest logit and its first class, `[B, 1, H, W, D]`: on a CPU in a third of the time of `max`."""
    last = logits.shape[1] - 1
    ranks = torch.arange(last, -1, -1, dtype=torch.uint8 if last < 2**8 else torch.int32, device=logits.device)
    largest = logits.amax(dim=1, keepdim=True)
    first = ((logits == largest) * ranks.reshape(-1, *[1] * (logits.dim() - 2))).amax(dim=1, keepdim=True)
    return largest, last - first.long()


def _counts(pred: Tensor, true: Tensor, num_classes: int, voxels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns, for maps `[B, N]`, |P_k| + |L_k|, |P_k and L_k| and |L_k| of each class, float64 `[B, K]`."""
    ones = torch.ones_like(pred, dtype=torch.double) if voxels is None else voxels.flatten(1).double()
    labelled, found = (_per_class(ones, index, num_classes) for index in (true, pred))
    return labelled + found, _per_class((pred == true) * ones, true, num_classes), labelled


def dice_linear(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Returns the Dice loss of the foreground with linear denominators, `[B]`, like the score, of `logits` `[B, K, H,
    W, D]` on the voxels in `scope`.

    With p the softmax, y the one-hot label and the mean over the foreground classes k of the sample's labels:

    .. math:: 1 - \frac{1}{K'} \sum_k \frac{2 \sum p_k y_k}{\sum p_k + \sum y_k}
    """
    p = torch.softmax(logits, dim=1).flatten(2)
    index = labels.flatten(1).long()
    counts = _counting(p, scope)
    overlap = _per_class(p.gather(1, index[:, None])[:, 0] * counts, index, p.shape[1])
    size = _per_class(counts, index, p.shape[1])
    soft = (p if scope.voxels is None else p * counts[:, None]).sum(dim=2)
    scores = 2 * overlap / (soft + size + SMOOTH_DENOMINATOR)
    weights = (size > 0).double()
    if scope.classes is None:
        weights[:, 0] = 0
    else:
        weights = weights.index_select(1, scope.classes)
        scores = scores.index_select(1, scope.classes)
    return (1 - weighted_mean(scores, weights)).to(p.dtype)


def weighted_mean(scores: Tensor, weights: Tensor) -> Tensor:
    """Returns the mean of scores of classes, `[B]`, by weights of 0 and 1, both `[B, K]`; 0 if all weights are."""
    return (scores * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def voxel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns -log p of the label in every voxel, `[B, H, W, D]`, of `logits` `[B, K, H, W, D]` against `labels` `[B,
    1, H, W, D]`."""
    return F.cross_entropy(logits, labels[:, 0].long(), reduction="none")


def _is_open(logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
    """Returns True for each voxel that is still to be changed, `[B, H, W, D]`."""
    as_labelled = is_as_labelled(logits.detach(), labels)[:, 0]
    return as_labelled if scope.truth is None else ~as_labelled


def voxel_mean(values: Tensor, scope: Scope) -> Tensor:
    """Returns the mean of voxel values `[B, H, W, D]` over the voxels that count in `scope`, `[B]`; 0 if none does."""
    if scope.voxels is None:
        return values.flatten(1).mean(dim=1)
    counts = scope.voxels.flatten(1)
    return (values.flatten(1) * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def is_as_labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns True for each voxel that is predicted by `logits` `[B, K, H, W, D]` as in `labels`, bool `[B, 1, H, W,
    D]`.

    If two classes share the largest logit, both count as predicted: an argmax over classes is much slower.
    """
    return logits.gather(1, labels.long()) >= logits.amax(dim=1, keepdim=True)


def cosine_to_label(p: Tensor, labels: Tensor) -> Tensor:
    r"""Returns the cosine between softmax p `[B, K, H, W, D]` and one-hot `labels`, :math:`p_{label} / \|p\|_2`, `[B,
    1, H, W, D]`."""
    squares: Tensor = torch.einsum("bk...,bk...->b...", p, p)  # seven times as fast as a norm over the second axis
    return p.gather(1, labels.long()) / squares.sqrt()[:, None]


def dice_of_set(p: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    r"""Returns one Dice loss against `labels` over a set S of voxels, the `members`, of a whole batch, all classes and
    samples pooled, a scalar.

    .. math:: 1 - \frac{2 \sum_S p_{label} + 10^{-5}}{|S| + \sum_S \sum_k p_k^2 + 10^{-5}}

    with p the softmax `[B, K, H, W, D]` and S as bool `[B, 1, H, W, D]`. An empty set gives 0 and no gradient. As in
    the SegPGD of the code released with SA2 (Hanif et al., ISBI 2025).
    """
    weights = members.to(p)
    overlap = (weights * p.gather(1, labels)).sum()
    return 1 - (2 * overlap + SMOOTH_SET) / (weights.sum() + (weights * p.square()).sum() + SMOOTH_SET)


def mean_dice(
    logits: Tensor, labels: Tensor, classes: Sequence[int] | None = None, voxels: Tensor | None = None
) -> Tensor:
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
        voxels: the only voxels that count, bool `[B, 1, H, W, D]`; None: all.
    """
    pred = torch.cat([_largest(z)[1] for (z,) in _slabs(logits)], dim=2).flatten(1)
    true = labels.flatten(1).long()
    both, hits, labelled = _counts(pred, true, logits.shape[1], voxels)
    dice = 2 * hits / both.clamp(min=1)
    counts = torch.zeros_like(labelled)
    for k in [slice(1, None)] if classes is None else classes:
        counts[:, k] = 1  # one by one: copying a list of them would make the device wait
    counts *= labelled > 0
    mean = (dice * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    share = hits.sum(dim=1) / labelled.sum(dim=1).clamp(min=1)
    return mean if classes is not None else torch.where(counts.any(dim=1), mean, share)


LOSSES: Mapping[str, Loss] = {
    "ce": ce,
    "dice": dice,
    "dicece": dice_ce,
    "dlr": dlr,
    "dlr-targeted": dlr_targeted,
    "mask-ce": mask_ce,
    "mask-ce-balanced": mask_ce_balanced,
    "js": js,
    "cosine": cosine,
    "margin": margin,
    "dice_linear": dice_linear,
}
"""Every loss maps logits, labels and a scope to `[B]`, high where the prediction is far from the labels."""

COMPARED_BY: Mapping[str, str] = {"mask-ce": "ce", "mask-ce-balanced": "ce"}
"""Losses that rank volumes in place of those that ignore voxels which are already wrong."""

SEQUENCES: Mapping[str, str] = {"switch": "dice_linear", "auto": "dice_linear", "horizon": "dice_linear"}
"""Names of losses that change during a search (`freqbench.attacks.apgd.search`), and the loss that ranks volumes."""
