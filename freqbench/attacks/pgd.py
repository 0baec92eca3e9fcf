"""Projected gradient descent in the l-infinity or the L2 ball.  Madry et al., ICLR 2018, arXiv:1706.06083."""

from dataclasses import dataclass

from torch import Tensor

from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.norms import NormAttack
from freqbench.attacks.core.task import Task
from freqbench.attacks.core.values import step_length


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack, NormAttack):
    """x <- P(x + step_size * sign(dL/dx)), where P projects onto the eps-ball around the clean volume and [0, 1].

    L is `loss`, by default the Dice + cross-entropy of `freqbench.ops.losses.dice_ce`, as in the code released with
    VAFA and SA2; Madry et al. raise the cross-entropy of a classifier. Results equal those of the released code. With
    `norm: l2` the ball is that of the root mean square and the gradient, scaled to 1, takes the place of its sign.

    Args:
        step_size: length of a step on the [0, 1] intensity scale, or a part of eps such as `eps/4`; the default is that
            of the released command line, 64 % of eps = 4/255.

    `start`: noise in [-eps, eps], `[B, C, H, W, D]`; the first volume is the clean one plus this noise, clamped to [0,
    1].

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

    @property
    def step(self) -> float:
        """Length of a step on the [0, 1] intensity scale."""
        return step_length(self.step_size, self.eps)

    def run(self, task: Task) -> Tensor:
        """Runs the paper's iteration."""
        project = self.projection(task)
        towards = self.towards(task)
        x = self.start(task)
        for _ in range(self.steps):
            x = project(x + self.step * towards(task.gradient(x)))
        return x

    def start(self, task: Task) -> Tensor:
        """Returns the first volumes: a random point of the ball, or the clean ones."""
        return self.projection(task)(task.clean + self.draw_start(task)) if self.random_start else task.clean
