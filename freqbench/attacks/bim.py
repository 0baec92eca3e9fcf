"""The basic iterative method.  Kurakin et al., ICLR workshop 2017, arXiv:1607.02533."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from freqbench.attacks.core.gradient import LinfGradientAttack
from freqbench.attacks.core.parameters import step_length
from freqbench.attacks.core.task import Task
from freqbench.ops.projections import linf_ball


@dataclass(frozen=True, kw_only=True)
class BIM(LinfGradientAttack):
    """x <- P(x + step_size * sign(dL/dx)) from the clean volume: PGD without its random start.

    L is `loss`, the Dice + cross-entropy of `freqbench.ops.losses.dice_ce` by default.

    Args:
        eps: radius on the [0, 1] intensity scale.
        steps: gradient steps; one forward and one backward pass each.
        step_size: length of a step on the same scale, or `eps/4` for a quarter of eps, and so on.

    What every gradient attack takes beside: `freqbench.attacks.core.gradient`.

    Differs from the paper: steps and step size are the released command line's (20 and 0.01); the paper takes steps of
    1/255, min(255 eps + 4, 1.25 * 255 eps) of them. Differs from the released code: nothing.
    """

    name: ClassVar[str] = "bim"

    steps: int = 20
    step_size: float | str = 0.01

    def run(self, task: Task) -> Tensor:
        """The paper's iteration."""
        project = linf_ball(task.clean, self.eps)
        step = step_length(self.step_size, self.eps)
        x = task.clean
        for _ in range(self.steps):
            x = project(x + step * task.gradient(x).sign())
        return x
