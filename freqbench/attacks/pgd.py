"""Projected gradient descent in the l-infinity ball.  Madry et al., ICLR 2018, arXiv:1706.06083."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from freqbench.attacks.core.gradient import LinfGradientAttack
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.task import Task
from freqbench.attacks.core.values import step_length
from freqbench.ops.projections import linf_ball


@dataclass(frozen=True, kw_only=True)
class PGD(LinfGradientAttack):
    """x <- P(x + step_size * sign(dL/dx)), where P projects onto the eps-ball around the clean volume and [0, 1].

    L is `loss`, by default the Dice + cross-entropy of `freqbench.ops.losses.dice_ce`, as in the code released with
    VAFA and SA2; Madry et al. raise the cross-entropy of a classifier. Equal to the released code.

    Args:
        step_size: length of a step on the [0, 1] intensity scale, or a part of eps such as `eps/4`; the released
            command line's 0.01 is 64 % of eps = 4/255.

    `start`: the additive noise in [-eps, eps], `[B, C, H, W, D]`, added and then clamped to [0, 1].

    Example:
        >>> import torch
        >>> threshold = lambda x: torch.cat([0.5 - x, x - 0.5], dim=1)
        >>> model = torch.nn.Module(); model.forward = threshold
        >>> images = torch.tensor([0.49, 0.8]).reshape(1, 1, 1, 1, 2)
        >>> result = PGD(eps=8 / 255)(model, images, (images > 0.5).long())
        >>> (result.adversarial > 0.5).flatten().tolist()
        [True, True]
    """

    name = "pgd"

    steps: int = 20
    step_size: float | str = 0.01
    random_start: bool = True

    def run(self, task: Task) -> Tensor:
        """Runs the paper's iteration."""
        project = linf_ball(task.clean, self.eps)
        x = project(task.clean + self.draw_start(task)) if self.random_start else task.clean
        step = step_length(self.step_size, self.eps)
        for i in range(self.steps):
            x = project(x + step * self.gradient(task, x, i).sign())
        return x

    def gradient(self, task: Task, x: Tensor, i: int) -> Tensor:
        """Returns the gradient that step i follows from volumes."""
        return task.gradient(x)


@dataclass(frozen=True, kw_only=True)
class WeighingPGD(PGD):
    """PGD on a loss of its own that neglects voxels which are already wrong; the cross-entropy compares volumes."""

    variants = ("paper", "released", "released-bmvc")

    loss: ClassVar[str] = "ce"  # type: ignore[misc]  # No parameter any more.

    variant: str = "paper"

    @property
    def couples_batch(self) -> bool:
        """True for the released copies, which sum or multiply over the whole batch."""
        return self.variant != "paper"

    @abstractmethod
    def raised(self, logits: Tensor, objective: Objective, share: float) -> Tensor:
        """Returns the loss to raise, `[B]` or over the whole batch; `share` grows from 0 to 1/2 over the steps."""

    def gradient(self, task: Task, x: Tensor, i: int) -> Tensor:
        """Returns the gradient of the attack's own loss."""
        return task.gradient(x, partial(self._loss, task, i / (2 * self.steps)))

    def _loss(self, task: Task, share: float, x: Tensor) -> Tensor:
        logits = task.logits(x)
        task.offer(logits, x)
        return self.raised(logits, task.objective, share)
