"""SegPGD, which weighs right voxels above wrong ones.  Gu et al., ECCV 2022, arXiv:2207.12391."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.task import Task
from freqbench.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class SegPGD(PGD):
    r"""PGD on a cross-entropy that first weighs only the right voxels, and later the wrong ones nearly as much.

    At step i of T (from 0), with R and W the voxels that the prediction of the current volume has right and wrong, N
    together:

    .. math:: J = -\frac{1 - \lambda}{N} \sum_{v \in R} \log p_{label} - \frac{\lambda}{N} \sum_{v \in W} \log p_{label}
              , \qquad \lambda = \frac{i}{2 T}

    Towards a target, J is lowered and the weights change places: voxels that are not yet at the target have 1 - lambda.
    The paper has no target; Agnihotri et al. (CosPGD) read it so. J gives wrong voxels little weight, so the plain
    cross-entropy compares volumes. Steps and step size are PGD's. J sums over all voxels, most of them background. On
    the Dice score it is therefore weaker than PGD on the Dice loss (see the docs). For regions, R and W hold pairs of
    region and voxel, and the cross-entropy is binary.

    **Variants.** `paper` is the default. `released`: the code released with SA2 (Hanif et al., ISBI 2025), where the
    Dice loss over R and over W (`freqbench.ops.losses.dice_of_set`) replaces the sums. It pools the batch, so windows
    attacked together depend on each other. Towards a target -J is raised with the same weights, which pushes voxels
    that are not yet at the target less. `released-bmvc`: its copy in the code of Malik et al. (BMVC 2024), where J is
    the Dice of the wrong voxels alone at every step: if no voxel is wrong, the volume does not change.
    """

    name = "segpgd"
    variants = ("paper", "released", "released-bmvc")
    loss = "ce"  # compares volumes; J is what the steps raise

    variant: str = "paper"

    @property
    def couples_batch(self) -> bool:
        """True for the released copies, whose sums run over the whole batch."""
        return self.variant != "paper"

    def run(self, task: Task) -> Tensor:
        """Runs the iteration of PGD on J."""
        project = self.projection(task)
        towards = self.towards(task)
        x = self.start(task)
        for i in range(self.steps):
            j = partial(self.weighed, task.objective, i / (2 * self.steps))  # logits -> J
            x = project(x + self.step * towards(task.gradient(x, of_logits=j)))
        return x

    def weighed(self, objective: Objective, share: float, logits: Tensor) -> Tensor:
        """Returns J with lambda = `share`, `[B]`, or one value for the batch; sums run over the organs' voxels."""
        head = objective.head
        labels = objective.labels
        scope = objective.scope
        right = head.is_as_labelled(logits.detach(), labels)
        if self.variant == "paper":
            return objective.sign * right_before_wrong(
                objective, logits, right if objective.sign > 0 else ~right, share
            )
        p = head.probabilities(logits)
        dice_wrong = head.dice_of_set(p, labels, scope.among(~right))
        if self.variant == "released-bmvc":
            return objective.sign * dice_wrong
        dice_right = head.dice_of_set(p, labels, scope.among(right))
        return objective.sign * ((1 - share) * dice_right + share * dice_wrong)


def right_before_wrong(objective: Objective, logits: Tensor, unchanged: Tensor, share: float) -> Tensor:
    """Returns J of `SegPGD` of `logits` with lambda = `share`, `[B]`, by the `objective`; `unchanged` flags what is
    still to be changed."""
    entropy = objective.head.cross_entropy(logits, objective.labels)
    weights = share + (1 - 2 * share) * unchanged.reshape(entropy.shape).to(logits)
    return objective.head.voxel_mean(weights * entropy, objective.scope)
