"""CosPGD, which weighs voxels by their cosine to the label.  Agnihotri et al., ICML 2024, arXiv:2302.02213."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from freqbench.attacks.segmentation import SegmentationAttack
from freqbench.ops.losses import dice_ce
from freqbench.ops.voxelwise import cosine_to_label


@dataclass(frozen=True, kw_only=True)
class CosPGD(SegmentationAttack):
    r"""PGD on a cross-entropy in which a voxel counts by how near its prediction is to its label.

    With c the cosine between softmax and one-hot label of a voxel (`freqbench.ops.voxelwise.cosine_to_label`):

    .. math:: J = \frac1N \sum_v -c \log p_{label}; \qquad
              \text{targeted, lowered: } J = \frac1N \sum_v -(1 - c) \log p_{label}

    c is a weight and has no gradient, as in the authors' code: differentiated too, the product falls again once the
    label's probability is small, and the attack would hold voxels there.

    `start`: the additive noise in [-eps, eps], `[B, 1, H, W, D]`, added and then clamped to [0, 1].

    **Variants.** `paper` is the default. `released`: the code released with SA2 (Hanif et al., ISBI 2025), where the
    whole Dice + cross-entropy of a batch is multiplied by the mean c of the batch (1 - c for a target), both
    differentiated: no voxel is weighed against another, and windows attacked together depend on each other.
    `released-bmvc`: its copy in the code of Malik et al. (BMVC 2024): the same, but with a target every other step, the
    first among them, goes the wrong way.

    **Differs from the paper**: steps and step size are PGD's here. **Differs from the released code**: nothing.
    """

    name: ClassVar[str] = "cospgd"
    variants: ClassVar[tuple[str, ...]] = ("paper", "released", "released-bmvc")

    def objective(self, logits: Tensor, labels: Tensor, i: int) -> Tensor:
        """J, or -J for a target."""
        sign = -1.0 if self.targeted else 1.0
        if self.variant != "paper":
            cosine = cosine_to_label(logits, labels).mean()
            scale = 1 - cosine if self.targeted else cosine
            return sign * dice_ce(logits, labels).mean() * scale
        cosine = cosine_to_label(logits.detach(), labels)[:, 0]
        weights = 1 - cosine if self.targeted else cosine
        values = weights * F.cross_entropy(logits, labels[:, 0], reduction="none")
        return sign * values.flatten(1).mean(dim=1)

    def stride(self, i: int) -> float:
        """`step_size`; its sign alternates in the targeted copy of BMVC."""
        is_turned = self.variant == "released-bmvc" and self.targeted and i % 2 == 0
        return -self.step_size if is_turned else self.step_size
