"""CosPGD, which weighs voxels by their cosine to the label.  Agnihotri et al., ICML 2024, arXiv:2302.02213."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from freqbench.attacks.core.segmentation import SegmentationAttack
from freqbench.attacks.core.task import Task
from freqbench.ops.losses import dice_ce
from freqbench.ops.voxel_losses import voxel_mean
from freqbench.ops.voxelwise import cosine_to_label


@dataclass(frozen=True, kw_only=True)
class CosPGD(SegmentationAttack):
    r"""PGD on a cross-entropy in which a voxel counts by how near its prediction is to its label.

    With c the cosine between softmax and one-hot label of a voxel (`freqbench.ops.voxelwise.cosine_to_label`):

    .. math:: J = \frac1N \sum_v -c \log p_{label}; \qquad
              \text{targeted, lowered: } J = \frac1N \sum_v -(1 - c) \log p_{label}

    c is a weight and has no gradient, as in the authors' code: differentiated too, the product falls again once the
    label's probability is small, and the attack would hold voxels there.

    `start`: the additive noise in [-eps, eps], `[B, C, H, W, D]`, added and then clamped to [0, 1].

    **Variants.** `paper` is the default. `released`: the code released with SA2 (Hanif et al., ISBI 2025), where the
    whole Dice + cross-entropy of a batch is multiplied by the mean c of the batch (1 - c for a target), both
    differentiated: no voxel is weighed against another, and windows attacked together depend on each other.
    `released-bmvc`: its copy in the code of Malik et al. (BMVC 2024): the same, but with a target every other step, the
    first among them, goes the wrong way.

    **Differs from the paper**: steps and step size are PGD's here. **Differs from the released code**: nothing.

    **Weaker than plain Dice PGD** where the Dice is what counts, and no stronger than PGD on the cross-entropy there:
    43.7 against 30.9 and 42.7 (figures and setting: `freqbench.attacks.segpgd`).
    """

    name: ClassVar[str] = "cospgd"
    variants: ClassVar[tuple[str, ...]] = ("paper", "released", "released-bmvc")

    def objective(self, task: Task, logits: Tensor, i: int) -> Tensor:
        """J of the variant; organs are what every mean is taken over."""
        labels, scope = task.labels, task.scope
        if self.variant == "paper":
            log_p = F.log_softmax(logits, dim=1)
            cosine = cosine_to_label(log_p.detach().exp(), labels)
            weights = cosine if task.sign > 0 else 1 - cosine
            return voxel_mean(weights[:, 0] * F.nll_loss(log_p, labels[:, 0].long(), reduction="none"), scope)
        mean = voxel_mean(cosine_to_label(F.softmax(logits, dim=1), labels)[:, 0], scope).mean()
        return dice_ce(logits, labels, scope).mean() * (mean if task.sign > 0 else 1 - mean)

    def stride(self, task: Task, i: int) -> float:
        """`step_size`; its sign alternates in BMVC's copy with a target."""
        is_turned = self.variant == "released-bmvc" and task.sign < 0 and i % 2 == 0
        return -super().stride(task, i) if is_turned else super().stride(task, i)
