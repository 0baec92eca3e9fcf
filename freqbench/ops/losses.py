"""What attacks raise: the table of losses, and the released one, Dice + cross-entropy, with its own backward."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.ops.voxel_losses import EVERYTHING, Scope, ce, cosine, dlr, dlr_targeted, js, mask_ce, mask_ce_balanced

Loss = Callable[[Tensor, Tensor, Scope], Tensor]

SMOOTH_DENOMINATOR = 1e-6


def dice_ce(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    r"""Dice plus cross-entropy of each sample, on the softmax, background included.

    With p = softmax(logits) over the K classes, o = one-hot labels, and sums over the N voxels of one sample:

    .. math:: L_b = \frac1K \sum_k \Bigl[1 - \frac{2 \sum p_k o_k}{\sum p_k^2 + \sum o_k + 10^{-6}}\Bigr]
                    + \frac1N \sum -\log p_{label}

    Squared denominators and nothing added to the numerator, as in the code released with VAFA (Hanif et al., MICCAI
    2023, arXiv 2307.07269) and SA2 (Hanif et al., ISBI 2025); a class that a sample lacks adds 1 to its mean. The mean
    over samples is MONAI's `DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=0,
    smooth_dr=1e-6)`. Being a value a sample, its gradient does not depend on the batch.

    Args:
        logits: `[B, K, H, W, D]`, any spatial rank.
        labels: integers 0 to K - 1, `[B, 1, H, W, D]`.
        scope: what counts of it; sums run over its voxels, the Dice's mean over its classes.

    Returns:
        `[B]`. It can be differentiated once.
    """
    if scope.voxels is not None or scope.classes is not None:
        return dice(logits, labels, scope) + ce(logits, labels, scope)
    losses: Tensor = _Dice.apply(logits, labels, True)  # type: ignore[no-untyped-call]
    return losses


def dice(logits: Tensor, labels: Tensor, scope: Scope = EVERYTHING) -> Tensor:
    """The Dice part of `dice_ce` alone, `[B]`; same arguments."""
    if scope.voxels is None and scope.classes is None:
        losses: Tensor = _Dice.apply(logits, labels, False)  # type: ignore[no-untyped-call]
        return losses
    p = torch.softmax(logits, dim=1)
    batch, num_classes = p.shape[:2]
    index = labels.reshape(batch, -1).long()  # [B, N]
    # float64, as a million values added one by one in float32 are off in the third digit.
    per_class = torch.zeros(batch, num_classes, dtype=torch.float64, device=p.device)
    counts = torch.ones_like(p[:, 0]).flatten(1) if scope.voxels is None else scope.voxels.flatten(1).to(p)
    p = p.flatten(2)
    overlap = per_class.scatter_add(1, index, (p.gather(1, index[:, None])[:, 0] * counts).double())
    count = per_class.scatter_add(1, index, counts.double())
    squares = (p.square() if scope.voxels is None else p.square() * counts[:, None]).sum(dim=2)
    terms = (1 - 2 * overlap / (squares + count + SMOOTH_DENOMINATOR)).to(p.dtype)
    return terms.mean(dim=1) if scope.classes is None else terms[:, scope.classes].mean(dim=1)


class _Dice(torch.autograd.Function):
    """The Dice, `with_ce` plus the cross-entropy, on everything.

    Keeps the softmax alone; the label terms are one gather forward and one scatter backward.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, with_ce: bool) -> Tensor:
        batch, num_classes = logits.shape[:2]
        index = labels.reshape(batch, 1, -1).long()  # [B, 1, N]
        log_p = torch.log_softmax(logits, dim=1).reshape(batch, num_classes, -1)  # [B, K, N]
        cross_entropy = -log_p.gather(1, index).mean(dim=(1, 2)) if with_ce else None
        p = log_p.exp_()
        p_label = p.gather(1, index)

        per_class = torch.zeros(batch, num_classes, dtype=torch.float64, device=logits.device)
        overlap = per_class.scatter_add(1, index[:, 0], p_label[:, 0].double())
        count = per_class.scatter_add(1, index[:, 0], torch.ones_like(p_label[:, 0], dtype=torch.float64))
        slabs = p.reshape(
            batch, num_classes, logits.shape[2], -1
        )  # float32 sums over a slab at a time, float64 over slabs
        squares = torch.linalg.vector_norm(slabs, dim=3, dtype=_accumulator(p)).double().square().sum(dim=2)
        denominator = squares + count + SMOOTH_DENOMINATOR
        dice = (1 - 2 * overlap / denominator).mean(dim=1)

        ctx.save_for_backward(p, index, overlap, denominator)
        ctx.shape, ctx.with_ce = logits.shape, with_ce
        losses: Tensor = (dice if cross_entropy is None else dice + cross_entropy.double()).to(logits.dtype)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        p, index, overlap, denominator = ctx.saved_tensors
        num_classes, num_voxels = p.shape[1], p.shape[2]
        # With g = dL/dp = a p - c o for the Dice part, dL/dlogits = p (g - sum_k p g) + (p - o) / N. The order of the
        # operations is that of a softmax's and a cross-entropy's own backward: where p rounds to 1, signs hang on it.
        # So does p - 1, which is exact there, while p / N - 1 / N is rounded where weight / N is no power of two.
        weight = upstream.double()[:, None]
        a = (weight * 4 * overlap / (num_classes * denominator.square())).to(p.dtype)  # [B, K]
        c = (weight * 2 / (num_classes * denominator)).to(p.dtype)  # [B, K]

        gradient = (a[:, :, None] * p).scatter_add_(1, index, -c.gather(1, index[:, 0])[:, None])
        inner = torch.zeros_like(p[:, 0])
        for k in range(num_classes):
            inner.addcmul_(gradient[:, k], p[:, k])
        gradient.sub_(inner[:, None]).mul_(p)
        if ctx.with_ce:
            per_voxel = (weight / num_voxels).to(p.dtype)[:, :, None]  # [B, 1, 1]
            at_label = gradient.gather(1, index) + (p.gather(1, index) - 1) * per_voxel
            gradient.addcmul_(p, per_voxel).scatter_(1, index, at_label)
        return gradient.reshape(ctx.shape), None, None


def _accumulator(p: Tensor) -> torch.dtype:
    """Half precisions are summed in float32, which the norm would not do by itself."""
    return torch.promote_types(p.dtype, torch.float32)


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
}
"""Every loss maps logits, labels and a scope to `[B]`, high where the prediction is far from the labels."""

COMPARED_BY: Mapping[str, str] = {"mask-ce": "ce", "mask-ce-balanced": "ce"}
"""Losses that let go of what is wrong already do not say which of two volumes is worse: these say it for them."""
