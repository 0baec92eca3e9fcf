"""Two steps of FGSM, as an example."""

from dataclasses import dataclass

from torch import Tensor

from freqbench.attacks.core.attack import LinfAttack
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.task import Task
from freqbench.ops.projections import linf_ball


@dataclass(frozen=True, kw_only=True)
class TwoSteps(GradientAttack, LinfAttack):
    """Twice x <- P(x + eps * sign(dL/dx)), where P projects onto the eps-ball and [0, 1]."""

    name = "two_steps"
    steps = 2

    def run(self, task: Task) -> Tensor:
        """Takes the two steps."""
        project = linf_ball(task.clean, self.eps)
        x = task.clean
        for _ in range(self.steps):
            x = project(x + self.eps * task.gradient(x).sign())
        return x
