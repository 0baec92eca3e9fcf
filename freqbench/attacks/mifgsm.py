"""MI-FGSM, momentum in the basic iterative method.  Dong et al., CVPR 2018, arXiv:1710.06081."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.attacks.core.attack import LinfAttack
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.task import Task
from freqbench.attacks.core.values import step_length
from freqbench.ops.projections import linf_ball

Gradient = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class MIFGSM(GradientAttack, LinfAttack):
    r"""Steps along the sign of a gradient averaged over the steps, so that it depends less on one network.

    From the clean volume and g = 0, sample by sample, with P the projection onto the eps-ball and [0, 1]:

    .. math:: g \leftarrow \mu g + \frac{\nabla L(x)}{\| \nabla L(x) \|_1}, \qquad
              x \leftarrow P\bigl(x + \alpha \, \mathrm{sign}(g)\bigr)

    mu is `decay`, 0 for the basic iterative method; alpha is `step_size` on the [0, 1] intensity scale, or a part of
    eps such as `eps/4`; None: eps / steps. A gradient that is 0 everywhere adds nothing.

    **Differs from the paper**, where eps is 16/255: L is `loss`, Dice + cross-entropy by default; theirs is a
    classifier's cross-entropy. **From the authors' code**: nothing else; its mean absolute value leads to the same
    signs.
    """

    name = "mifgsm"
    variants = ("paper",)

    steps: int = 10
    decay: float = 1.0
    step_size: float | str | None = None
    variant: str = "paper"

    @property
    def step(self) -> float:
        """Value of alpha, on the [0, 1] intensity scale."""
        return self.eps / self.steps if self.step_size is None else step_length(self.step_size, self.eps)

    def gradients(self, task: Task) -> Gradient:
        """Makes a run's draws; returns a function of volumes and step number to the gradient that a step adds."""
        return lambda x, i: task.gradient(x)

    def run(self, task: Task) -> Tensor:
        """Runs the paper's iteration."""
        project = linf_ball(task.clean, self.eps)
        gradient = self.gradients(task)
        x = task.clean
        momentum = torch.zeros_like(task.clean)
        tiny = torch.finfo(x.dtype).tiny
        for i in range(self.steps):
            unit = F.normalize(gradient(x, i), p=1, dim=(1, 2, 3, 4), eps=tiny)  # type: ignore[arg-type]
            momentum = self.decay * momentum + unit
            x = project(x + self.step * momentum.sign())
        return x
