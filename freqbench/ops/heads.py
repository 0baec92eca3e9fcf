"""Defines the two ways in which outputs of a network are classes: exclusive ones by softmax, regions by sigmoid."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqbench.core.types import Outputs
from freqbench.ops import losses, region_losses
from freqbench.ops.compiled import compiled
from freqbench.ops.losses import Loss, Scope
from freqbench.ops.regions import code_of


@dataclass(frozen=True, kw_only=True)
class Head:
    """Functions of logits `[B, K, H, W, D]`, or of probabilities p of that shape, and of labels `[B, 1, H, W, D]`.

    Values by voxel are `[B, H, W, D]` for exclusive classes, `[B, K, H, W, D]` for regions; flags of exclusive classes
    have an axis of length 1 in place of K.

    `flips` are, by voxel, how far the nearest wrong answer is ahead, and two parts of what its flip takes from the
    Dice.
    """

    name: Outputs
    has_background: bool  # the first output is the background's
    losses: Mapping[str, Loss]  # that it has, by name
    flips: Callable[[Tensor, Tensor, Scope], tuple[Tensor, Tensor, Tensor]]
    margin_of: Callable[[Tensor, Tensor, Scope, Tensor], Tensor]  # the loss `margin`, from margins that are known
    probabilities: Callable[[Tensor], Tensor]  # p from logits
    log_probabilities: Callable[[Tensor], Tensor]  # its logarithm
    logits_of: Callable[[Tensor], Tensor]  # logits from p
    mean_of_probabilities: Callable[[Sequence[Tensor]], Tensor]  # as logits; gradients survive where all are sure
    cross_entropy: Callable[[Tensor, Tensor], Tensor]  # by voxel
    voxel_mean: Callable[[Tensor, Scope], Tensor]  # mean of values by voxel within a scope, `[B]`
    is_as_labelled: Callable[[Tensor, Tensor], Tensor]  # flags of what is predicted as labelled
    cosine_to_label: Callable[[Tensor, Tensor], Tensor]  # of p, by voxel
    dice_of_set: Callable[[Tensor, Tensor, Tensor], Tensor]  # Dice loss over a set of flags, from p
    mean_dice: Callable[[Tensor, Tensor, Sequence[int] | None, Tensor | None], Tensor]  # hard, of each sample, `[B]`
    # Voxels of some classes of the dataset, bool `[B, 1, H, W, D]`, and the indices of their outputs.
    of_classes: Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]

    def num_classes(self, outputs: int) -> int:
        """Returns the number of classes, background included, of a network with so many outputs."""
        return outputs if self.has_background else outputs + 1


def _mean_of_sigmoid(logits: Sequence[Tensor]) -> Tensor:
    inside, outside = (torch.stack([F.logsigmoid(sign * part) for part in logits]) for sign in (1, -1))
    return inside.logsumexp(dim=0) - outside.logsumexp(dim=0)


SOFTMAX = Head(
    name="softmax",
    has_background=True,
    losses={name: compiled(loss) for name, loss in losses.LOSSES.items()},
    flips=compiled(losses.flips),
    margin_of=compiled(losses.margin_of),
    probabilities=lambda logits: logits.softmax(dim=1),
    log_probabilities=lambda logits: logits.log_softmax(dim=1),
    logits_of=lambda p: p.clamp(min=torch.finfo(p.dtype).tiny).log(),  # 0 has neither a logarithm nor a gradient
    mean_of_probabilities=lambda several: (
        torch.stack([logits.log_softmax(dim=1) for logits in several]).logsumexp(dim=0) - math.log(len(several))
    ),
    cross_entropy=losses.voxel_cross_entropy,
    voxel_mean=losses.voxel_mean,
    is_as_labelled=compiled(losses.is_as_labelled),
    cosine_to_label=lambda p, labels: losses.cosine_to_label(p, labels)[:, 0],
    dice_of_set=losses.dice_of_set,
    mean_dice=compiled(losses.mean_dice),
    of_classes=lambda labels, classes: (
        torch.isin(labels, torch.tensor(classes, device=labels.device)),
        torch.tensor(classes, device=labels.device),
    ),
)
SIGMOID = Head(
    name="sigmoid",
    has_background=False,
    losses={name: compiled(loss) for name, loss in region_losses.LOSSES.items()},
    flips=compiled(region_losses.flips),
    margin_of=compiled(region_losses.margin_of),
    probabilities=torch.sigmoid,
    log_probabilities=F.logsigmoid,
    logits_of=lambda p: p.clamp(torch.finfo(p.dtype).tiny, 1 - torch.finfo(p.dtype).eps / 2).logit(),
    mean_of_probabilities=_mean_of_sigmoid,
    cross_entropy=region_losses.voxel_cross_entropy,
    voxel_mean=region_losses.voxel_mean,
    is_as_labelled=compiled(region_losses.is_as_labelled),
    cosine_to_label=region_losses.cosine_to_label,
    dice_of_set=region_losses.dice_of_set,
    mean_dice=compiled(region_losses.mean_dice),
    of_classes=lambda labels, classes: (
        labels & code_of(classes) != 0,
        torch.tensor(classes, device=labels.device) - 1,
    ),
)

HEADS: Mapping[str, Head] = {head.name: head for head in (SOFTMAX, SIGMOID)}


def head_of(model: nn.Module) -> Head:
    """Returns the head of a model: SIGMOID if it has an attribute `outputs = "sigmoid"`, else SOFTMAX."""
    return HEADS[getattr(model, "outputs", SOFTMAX.name)]
