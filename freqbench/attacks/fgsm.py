"""The fast gradient sign method.  Goodfellow et al., ICLR 2015, arXiv:1412.6572."""

from dataclasses import dataclass

from torch import Tensor

from freqbench.attacks.core.attack import LinfAttack
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.task import Task
from freqbench.ops.projections import linf_ball


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack, LinfAttack):
    """x + eps * sign(dL/dx), clamped to [0, 1]: one step to the corner of the ball.

    L is `loss`, the Dice + cross-entropy of `freqbench.ops.losses.dice_ce` by default. Equal to the released code.
    """

    name = "fgsm"

    def run(self, task: Task) -> Tensor:
        """Takes the paper's step."""
        project = linf_ball(task.clean, self.eps)
        return project(task.clean + self.eps * task.gradient(task.clean).sign())
