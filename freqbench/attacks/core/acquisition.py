"""Auto-PGD on what changes a volume between patient and image: k-space, coils, projections, the display window."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space, climb
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import ACQUISITION, PARAMETERS, RANDOM_CONTROL, SCOPES, Parameter
from freqbench.attacks.core.task import Task


@dataclass(frozen=True, kw_only=True)
class AcquisitionAttack(GradientAttack):
    """Auto-PGD on the few or many numbers that make an attacked volume of a clean one.

    An author writes `space`: the set of points, and what makes volumes of them; where its bound is not one on the size
    of each number by the budget, also `beyond`. A sample, window or volume, is taken for all that was acquired.

    Args:
        steps: gradient steps; one forward and one backward pass each, and one forward pass for the last volume.
        random_start: begin at a uniform draw; false: at no change.
        control: `none`, or `random`, a null row in place of the attack: a random point at the ends of the set, without
            a gradient.

    `start` and `state` are points; a start is projected onto the set.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {**PARAMETERS, **ACQUISITION, "control": RANDOM_CONTROL}
    scopes: ClassVar[tuple[str, ...]] = SCOPES
    budget_name: ClassVar[str]

    steps: int = 40
    random_start: bool = True
    control: str = "none"
    loss: str | None = "dice"
    keep: str = "best"

    @abstractmethod
    def space(self, clean: Tensor) -> Space:
        """Where the attack moves; the centre, no change, has the layout of a point `[B, ...]`."""

    @property
    def budget(self) -> float:
        """The bound."""
        return float(getattr(self, self.budget_name))

    @property
    def is_stochastic(self) -> bool:
        """The start is drawn, or the null row."""
        return self.control == "random" or self.random_start

    def perturb(self, task: Task) -> Tensor:
        """The best point of all runs, or the null row's, and its volumes."""
        return self.search(task, self.space(task.clean))

    def search(self, task: Task, space: Space) -> Tensor:
        """`perturb`, in a space of which an author may have changed what renders."""
        if self.control == "none":
            task.state = self.run_to_best(
                task, lambda: climb(task, space, self._start(task, space), self.steps), space.render
            )
        else:
            task.state = space.project(space.centre + space.radius * space.towards(_draw(task, space)))
        with torch.no_grad():
            return space.render(task.state)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """How far the state leaves its bound, or the volumes those that the state makes."""
        if state is None:
            return float("inf")
        with torch.no_grad():
            made = self.space(clean).render(state)
        return max(self.beyond(state), float((made - adversarial).abs().max()))

    def beyond(self, state: Tensor) -> float:
        """By how much the largest number of a state exceeds the budget."""
        return float(state.abs().max()) - self.budget

    def _start(self, task: Task, space: Space) -> Tensor:
        given = task.given_start(space.centre.shape[1:])
        if given is not None:
            return given
        return space.centre + space.radius * _draw(task, space) if self.random_start else space.centre


def _draw(task: Task, space: Space) -> Tensor:
    """Uniform in [-1, 1], real and imaginary parts each, in the layout of a point."""
    layout = space.centre.shape[1:]
    if space.centre.is_complex():
        return torch.view_as_complex(2 * task.draw(torch.rand, (*layout, 2)) - 1)
    return 2 * task.draw(torch.rand, layout) - 1
