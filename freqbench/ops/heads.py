"""Defines the two ways in which outputs of a network are classes: exclusive ones by softmax, regions by sigmoid."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

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

    Attributes:
        name: `softmax` or `sigmoid`.
        has_background: True if the first output is the background's.
        losses: the losses that it has, by name.
        flips: by voxel, how far the nearest wrong answer is ahead, and two parts of what its flip takes from the Dice.
        margin_of: the loss `margin`, from margins that are known.
        probabilities: p from logits.
        log_probabilities: the logarithm of p, from logits.
        logits_of: logits from p.
        mean_of_probabilities: logits of the mean p of several logits; gradients survive where all are sure.
        cross_entropy: of logits and labels, by voxel.
        voxel_mean: mean of values by voxel within a scope, `[B]`.
        is_as_labelled: flags of what is predicted as labelled.
        cosine_to_label: cosine of p and label, by voxel.
        dice_of_set: Dice loss over a set of flags, from p; a scalar.
        mean_dice: hard Dice of each sample, `[B]`, of some classes (None: the foreground) and voxels (None: all).
        of_classes: voxels of some classes of the dataset, bool `[B, 1, H, W, D]`, and the indices of their outputs.
    """

    name: Outputs
    has_background: bool
    losses: Mapping[str, Loss]
    flips: Callable[[Tensor, Tensor, Scope], tuple[Tensor, Tensor, Tensor]]
    margin_of: Callable[[Tensor, Tensor, Scope, Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor]
    log_probabilities: Callable[[Tensor], Tensor]
    logits_of: Callable[[Tensor], Tensor]
    mean_of_probabilities: Callable[[Sequence[Tensor]], Tensor]
    cross_entropy: Callable[[Tensor, Tensor], Tensor]
    voxel_mean: Callable[[Tensor, Scope], Tensor]
    is_as_labelled: Callable[[Tensor, Tensor], Tensor]
    cosine_to_label: Callable[[Tensor, Tensor], Tensor]
    dice_of_set: Callable[[Tensor, Tensor, Tensor], Tensor]
    mean_dice: Callable[[Tensor, Tensor, Sequence[int] | None, Tensor | None], Tensor]
    of_classes: Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]

    def num_classes(self, outputs: int) -> int:
        """Returns the number of classes, background included, of a network with so many outputs."""
        return outputs if self.has_background else outputs + 1


def _head(module: ModuleType, **own: Any) -> Head:
    """Returns a head: the functions that both modules of losses have, by the same names, and its own."""
    raised = {name: compiled(loss) for name, loss in module.LOSSES.items()}
    return Head(
        losses=raised,
        flips=compiled(module.flips),
        margin_of=compiled(module.margin_of),
        cross_entropy=module.voxel_cross_entropy,
        voxel_mean=module.voxel_mean,
        is_as_labelled=compiled(module.is_as_labelled),
        dice_of_set=module.dice_of_set,
        mean_dice=compiled(module.mean_dice),
        **own,
    )


def _logits_of_softmax(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()  # 0 has neither a logarithm nor a gradient


def _mean_of_softmax(several: Sequence[Tensor]) -> Tensor:
    logs = torch.stack([logits.log_softmax(dim=1) for logits in several])
    return logs.logsumexp(dim=0) - math.log(len(several))


def _cosine_to_label(p: Tensor, labels: Tensor) -> Tensor:
    return losses.cosine_to_label(p, labels)[:, 0]


def _of_classes(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    outputs = torch.tensor(classes, device=labels.device)
    return torch.isin(labels, outputs), outputs


def _logits_of_sigmoid(p: Tensor) -> Tensor:
    limits = torch.finfo(p.dtype)
    return p.clamp(limits.tiny, 1 - limits.eps / 2).logit()


def _mean_of_sigmoid(several: Sequence[Tensor]) -> Tensor:
    inside = torch.stack([F.logsigmoid(logits) for logits in several])
    outside = torch.stack([F.logsigmoid(-logits) for logits in several])
    return inside.logsumexp(dim=0) - outside.logsumexp(dim=0)


def _of_regions(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    return labels & code_of(classes) != 0, torch.tensor(classes, device=labels.device) - 1


SOFTMAX = _head(
    losses,
    name="softmax",
    has_background=True,
    probabilities=partial(torch.softmax, dim=1),
    log_probabilities=partial(torch.log_softmax, dim=1),
    logits_of=_logits_of_softmax,
    mean_of_probabilities=_mean_of_softmax,
    cosine_to_label=_cosine_to_label,
    of_classes=_of_classes,
)
SIGMOID = _head(
    region_losses,
    name="sigmoid",
    has_background=False,
    probabilities=torch.sigmoid,
    log_probabilities=F.logsigmoid,
    logits_of=_logits_of_sigmoid,
    mean_of_probabilities=_mean_of_sigmoid,
    cosine_to_label=region_losses.cosine_to_label,
    of_classes=_of_regions,
)

HEADS: Mapping[str, Head] = {head.name: head for head in (SOFTMAX, SIGMOID)}


def head_of(model: nn.Module) -> Head:
    """Returns the head of a model: SIGMOID if it has an attribute `outputs = "sigmoid"`, else SOFTMAX."""
    return HEADS[getattr(model, "outputs", SOFTMAX.name)]
