"""The fast gradient sign method.  Goodfellow et al., ICLR 2015, arXiv:1412.6572."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from freqbench.attacks.base import LinfAttack
from freqbench.attacks.task import Task
from freqbench.ops.projections import linf_ball


@dataclass(frozen=True, kw_only=True)
class FGSM(LinfAttack):
    """x + eps * sign(dL/dx), clamped to [0, 1]: one step to the corner of the ball.

    L is the Dice + cross-entropy of `freqbench.ops.losses.dice_ce`.

    Args:
        eps: length of the step and radius of the ball, on the [0, 1] intensity scale.

    Differs from the released code: nothing.
    """

    name: ClassVar[str] = "fgsm"

    @property
    def passes(self) -> tuple[int, int]:
        """One of each."""
        return 1, 1

    def perturb(self, task: Task) -> Tensor:
        """The paper's step."""
        project = linf_ball(task.clean, self.eps)
        return project(task.clean + self.eps * task.gradient(task.clean).sign())
