"""DDN, the smallest change by its direction and norm apart.  Rony et al., CVPR 2019, arXiv:1811.09600."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.calls import across
from freqbench.attacks.core.parameters import DECISION, PARAMETERS, RMS_STEP
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.heads import Head

GAMMA = 0.05
SHORTEST = 0.01  # last step, relative to the first


class Reached(NamedTuple):
    """Facts of a step's volumes, one value or flag per sample, `[B]`; norms are Euclidean or the largest."""

    loss: Tensor
    gradient: Tensor  # `[B, C, H, W, D]`
    norm: Tensor  # of the change
    fallen: Tensor
    found: Tensor  # some volume so far had fallen
    smallest: Tensor  # norm of the smallest change that made a volume fall
    needed: Tensor  # minus the Dice at which a volume falls
    cosine: float  # from 1 in the first step towards 0


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    r"""Seeks the smallest L2 change after which the foreground Dice of a volume is at most `dice`; no radius is given.

    The change d of norm r follows the gradient of the loss, and keeps its direction while the norm changes:

    .. math:: d \leftarrow r \frac{d + \alpha g}{\lVert d + \alpha g \rVert_2}, \qquad
              g = \frac{dL/dx}{\lVert dL/dx \rVert_2}

    where r is multiplied by 0.95 if the volume has fallen and by 1.05 otherwise, and alpha falls along a cosine to a
    hundredth. The volume is then clamped to [0, 1]. The result is the smallest change that made the volume fall, or, if
    none did, the volume of the lowest Dice. Nothing is drawn.

    Sizes are a root mean square over the attacked voxels, the `eps` of attacks with `norm: l2`.

    Args:
        steps: one forward and one backward pass each; the last step's volume is not evaluated.
        step_size: first step, and first r, as a root mean square; the paper's is a Euclidean norm of 1 for all images.
        dice: mean Dice (`freqbench.ops.losses.mean_dice`) at or below which a volume has fallen; None: half of the
            clean volume's.
        loss: the loss that is raised. `ce` is the paper's, and the smallest changes that it finds are larger.
        organs: classes in the Dice. None: the foreground.

    `state`: size of the smallest change that made each sample fall, `[B]`; infinite if none did. A row has it as
    `smallest_l2`.

    DDN divides a change by its norm, which has no L-infinity form: `fmn` is the one that its authors' followers made.

    **Differs from the authors' code**: the decision is about the Dice, not a class; volumes are not rounded to 256
    levels; a gradient of 0 leaves the direction, where theirs draws one.
    """

    name = "ddn"
    budget_name = None
    variants = ("paper",)
    scopes = ("volume",)
    judged_by_dice = True
    parameters = PARAMETERS | {"dice": DECISION, "step_size": RMS_STEP}

    steps: int = 100
    step_size: float = 0.02
    dice: float | None = None
    loss: str = "dice_linear"
    organs: tuple[int, ...] | None = None
    scope: str = "volume"
    variant: str = "paper"

    @property
    def threat_model(self) -> str:
        """`l2-minimal`."""
        return "l2-minimal"

    @property
    def passes(self) -> tuple[int, int]:
        """One forward and one backward pass per step."""
        return self.steps, self.steps

    def check_head(self, head: Head) -> None:
        """Checks also that the loss has a form for regions."""
        self.check_loss(head, self.loss)
        super().check_head(head)

    def prepare(self, task: Task) -> None:
        """Sets the loss, and the classes in the Dice."""
        if task.given.start is not None:
            raise UserError(f"{self.name}: expected no start, as it begins at the clean volume: leave it out")
        task.aim(self.loss, self.organs, None)

    def perturb(self, task: Task) -> Tensor:
        """Runs the paper's iteration."""
        clean = task.clean
        change = torch.zeros_like(task.clean)
        first = self.step_size * clean[0].numel() ** 0.5
        farthest = self.norm_of(torch.maximum(clean, 1 - clean))
        radius = self.first_radius(farthest, first)
        smallest = torch.full_like(farthest, math.inf)
        found = smallest < 0
        result = clean
        least = -smallest
        needed = smallest
        for i in range(self.steps):
            gradient, (loss, success) = task.gradient_and(clean + change, lambda x: self._raised(task, x))
            if i == 0:
                needed = success / 2 if self.dice is None else torch.full_like(success, -self.dice)
            norm = self.norm_of(change)
            fallen = success >= needed
            better = torch.where(fallen, norm < smallest, ~found & (success > least))
            result = torch.where(across(better, clean), clean + change, result)
            found = found | fallen
            least = torch.maximum(least, success)
            smallest = torch.where(fallen, norm.minimum(smallest), smallest)
            cosine = (1 + math.cos(math.pi * i / self.steps)) / 2
            gradient = gradient.nan_to_num()
            at = Reached(loss, gradient, norm, fallen, found, smallest, needed, cosine)
            radius = self.next_radius(at, radius).to(clean).minimum(farthest)
            length = first * (SHORTEST + (1 - SHORTEST) * cosine)
            change = self.within(change + length * gradient / across(norm_of(gradient, 2), clean), radius)
            change = (clean + change).clamp(0, 1) - clean
        task.state = self.size_of(smallest, clean)
        return result.clamp(0, 1)

    def first_radius(self, farthest: Tensor, first: float) -> Tensor:
        """Returns the norm before the first step, `[B]`: of a `first` step, and `farthest`, that of the greatest change
        in [0, 1]."""
        return torch.full_like(farthest, first)

    def next_radius(self, at: Reached, radius: Tensor) -> Tensor:
        """Returns the norm that the change has after a step from the point `at`, `[B]`, given the `radius` before
        it."""
        return radius * torch.where(at.fallen, 1 - GAMMA, 1 + GAMMA)

    def within(self, change: Tensor, radius: Tensor) -> Tensor:
        """Gives a change its norm, the `radius` `[B]`."""
        return change / across(norm_of(change, 2), change) * across(radius, change)

    def norm_of(self, change: Tensor) -> Tensor:
        """Returns the norm of a `change` that is made small, `[B]`."""
        return norm_of(change, 2)

    def size_of(self, norm: Tensor, clean: Tensor) -> Tensor:
        """Returns the size of changes of `clean` volumes of a norm, as rows state it."""
        return norm / clean[0].numel() ** 0.5

    def measured(self, clean: Tensor, state: Tensor | None) -> Mapping[str, float]:
        """Returns the size of the smallest change of `clean` volumes by their `state`; infinite if none made the volume
        fall."""
        return {} if state is None else {f"smallest_{self.threat_model.split('-')[0]}": float(state.max())}

    def _raised(self, task: Task, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        logits = task.logits(x)
        raised = task.objective.raised(logits)
        return raised, (raised.detach(), task.objective.success(logits))


def norm_of(change: Tensor, order: float) -> Tensor:
    """Returns a norm of an `order` of each sample of a `change`, `[B]`; the least positive number for zeros."""
    norm = torch.linalg.vector_norm(change.flatten(1), ord=order, dim=1, dtype=torch.double)  # squares may be tiny
    return norm.clamp(min=torch.finfo(torch.float).tiny).to(change)
