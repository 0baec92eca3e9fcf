"""What SegPGD and CosPGD share: the iteration of PGD under an objective that looks at single voxels."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from freqbench.attacks.base import LinfAttack
from freqbench.attacks.task import Task
from freqbench.ops.projections import linf_ball


@dataclass(frozen=True, kw_only=True)
class SegmentationAttack(LinfAttack):
    """x <- P(x + step_size * sign(dJ/dx)) as in PGD, with an objective J of its own at every step.

    Args:
        eps: radius on the [0, 1] intensity scale.
        steps: gradient steps; one forward and one backward pass each.
        step_size: length of a step on the same scale.
        random_start: begin at a uniform draw from the ball.
        variant: `paper`, sample by sample, or one of the released copies, which couple the samples of a batch.
    """

    steps: int = 20
    step_size: float = 0.01
    random_start: bool = True
    variant: str = "paper"

    @property
    def couples_batch(self) -> bool:
        """The released copies take sums and means over the whole batch before they divide or multiply."""
        return self.variant != "paper"

    @property
    def passes(self) -> tuple[int, int]:
        """One forward and one backward a step."""
        return self.steps, self.steps

    @property
    def is_stochastic(self) -> bool:
        """Only the start is drawn."""
        return self.random_start

    @abstractmethod
    def objective(self, logits: Tensor, labels: Tensor, i: int) -> Tensor:
        """What step i raises: a value a sample, `[B]`, or a scalar where the batch is coupled."""

    def stride(self, i: int) -> float:
        """How far step i goes along the gradient's sign."""
        return self.step_size

    def perturb(self, task: Task) -> Tensor:
        """The iteration."""
        project = linf_ball(task.clean, self.eps)
        x = project(task.clean + self._noise(task)) if self.random_start else task.clean
        for i in range(self.steps):
            gradient = task.gradient(x, partial(self._raised, task, i))
            x = project(x + self.stride(i) * gradient.sign())
        return x

    def _raised(self, task: Task, i: int, x: Tensor) -> Tensor:
        return self.objective(task.logits(x), task.labels, i)

    def _noise(self, task: Task) -> Tensor:
        start = task.given_start()
        return self.eps * (2 * task.draw(torch.rand) - 1) if start is None else start
