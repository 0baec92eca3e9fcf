"""What SegPGD and CosPGD share: the iteration of PGD under an objective that looks at single voxels."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from freqbench.attacks.core.parameters import step_length
from freqbench.attacks.core.task import Task
from freqbench.attacks.pgd import PGD
from freqbench.ops.projections import linf_ball


@dataclass(frozen=True, kw_only=True)
class SegmentationAttack(PGD):
    """x <- P(x + step_size * sign(dJ/dx)) as in PGD, with an objective J of its own at every step.

    Args:
        eps: radius on the [0, 1] intensity scale.
        steps: gradient steps; one forward and one backward pass each.
        step_size: length of a step on the same scale, or `eps/4` for a quarter of eps, and so on.
        random_start: begin at a uniform draw from the ball.
        variant: `paper`, sample by sample, or one of the released copies, which couple the samples of a batch.

    What every gradient attack takes beside: `freqbench.attacks.core.gradient`, but for `loss`, which J stands in for.
    As J lets go of voxels that are wrong, volumes are compared by the cross-entropy, sample by sample.
    """

    loss: ClassVar[str | None] = "ce"  # type: ignore[misc]  # No parameter any more.

    variant: str = "paper"

    @property
    def couples_batch(self) -> bool:
        """The released copies take sums and means over the whole batch before they divide or multiply."""
        return self.variant != "paper"

    @abstractmethod
    def objective(self, task: Task, logits: Tensor, i: int) -> Tensor:
        """J of step i, which is raised, or lowered towards a target.

        Args:
            task: its labels, its scope, and by its sign whether the labels are a target.
            logits: of the volumes, `[B, K, H, W, D]`.
            i: steps so far.

        Returns:
            A value a sample, `[B]`, or a scalar where the batch is coupled.
        """

    def stride(self, task: Task, i: int) -> float:
        """How far step i goes along the gradient's sign."""
        return step_length(self.step_size, self.eps)

    def run(self, task: Task) -> Tensor:
        """The iteration."""
        project = linf_ball(task.clean, self.eps)
        x = project(task.clean + self.draw_start(task)) if self.random_start else task.clean
        for i in range(self.steps):
            gradient = task.gradient(x, partial(self._raised, task, i))
            x = project(x + self.stride(task, i) * gradient.sign())
        return x

    def _raised(self, task: Task, i: int, x: Tensor) -> Tensor:
        logits = task.logits(x)
        if task.best is not None:
            task.best.offer(task.compared(logits), x.detach())
        return task.sign * self.objective(task, logits, i)
