"""CosPGD, which weighs voxels by their cosine to the label.  Agnihotri et al., ICML 2024, arXiv:2302.02213."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.task import Task
from freqbench.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class CosPGD(PGD):
    r"""PGD on a cross-entropy that weighs each voxel by the similarity of its prediction and its label.

    With c the cosine between softmax and one-hot label of a voxel (`freqbench.ops.losses.cosine_to_label`):

    .. math:: J = \frac1N \sum_v -c \log p_{label}; \qquad
              \text{targeted, lowered: } J = \frac1N \sum_v -(1 - c) \log p_{label}

    Of regions, c is the cosine of (p, 1 - p) and (y, 1 - y), the cross-entropy is binary, and the mean is one over
    regions too. c is a weight and has no gradient, as in the authors' code: otherwise the product falls again once the
    label's probability is small, and the attack would hold voxels there. J neglects voxels that are already wrong, so
    volumes are compared by the cross-entropy. Steps and step size are PGD's.

    **Variants.** `paper` is the default. `released`: the code released with SA2 (Hanif et al., ISBI 2025), where the
    whole Dice + cross-entropy of a batch is multiplied by its mean c (1 - c for a target), and both are differentiated:
    voxels are not weighed against each other, and windows attacked together depend on each other. `released-bmvc`: its
    copy in the code of Malik et al. (BMVC 2024): with a target every other step, from the first on, goes the wrong way.

    If the Dice is scored, this attack is weaker than PGD on the Dice (see the docs) and no stronger than PGD on the
    cross-entropy.
    """

    name = "cospgd"
    variants = ("paper", "released", "released-bmvc")
    loss = "ce"  # compares volumes

    variant: str = "paper"

    @property
    def couples_batch(self) -> bool:
        """True for the released copies, which multiply by the mean over the whole batch."""
        return self.variant != "paper"

    def run(self, task: Task) -> Tensor:
        """Runs the iteration of PGD on J; in `released-bmvc` every other step towards a target is turned around."""
        project = self.projection(task)
        towards = self.towards(task)
        x = self.start(task)
        for i in range(self.steps):
            g = task.gradient(x, of_logits=partial(self.weighed, task.objective))  # dJ/dx
            if self.variant == "released-bmvc" and task.objective.sign < 0 and i % 2 == 0:
                g = -g
            x = project(x + self.step * towards(g))
        return x

    def weighed(self, objective: Objective, logits: Tensor) -> Tensor:
        """Returns J, `[B]` or over the whole batch, with every mean over the organs."""
        head = objective.head
        labels = objective.labels
        scope = objective.scope
        if self.variant == "paper":
            cosine = head.cosine_to_label(head.log_probabilities(logits.detach()).exp(), labels)
            weights = cosine if objective.sign > 0 else 1 - cosine
            return objective.sign * head.voxel_mean(weights * head.cross_entropy(logits, labels), scope)
        cosine = head.voxel_mean(head.cosine_to_label(head.probabilities(logits), labels), scope).mean()
        weight = cosine if objective.sign > 0 else 1 - cosine
        return objective.sign * (head.losses["dicece"](logits, labels, scope).mean() * weight)
