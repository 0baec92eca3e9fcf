"""Attacks the acquisition: k-space, coils, projections, the display window."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space, search
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import ACQUISITION, PARAMETERS, RANDOM_CONTROL, SCOPES, SEARCH
from freqbench.attacks.core.task import Task


@dataclass(frozen=True, kw_only=True)
class AcquisitionAttack(GradientAttack):
    """Projected steps on the parameters that turn a clean volume into an attacked one.

    The search is Auto-PGD's, with `step_rule: cosine` by default (`freqbench.attacks.apgd.search`). An author writes
    `space`: the set of points, and the function that renders their volumes. If the budget does not bound the size of
    each number, the author also writes `beyond`. A sample (window or volume) is treated as the whole acquisition.

    Args:
        steps: gradient steps; one forward and one backward pass each, plus one forward pass for the last volume.
        random_start: begin at a uniform draw; false: begin at no change.
        control: `none`, or `random` for a null row instead of the attack: a random point on the boundary of the set,
            without a gradient.

    `start` and `state` are points; the start is projected onto the set.
    """

    parameters = PARAMETERS | SEARCH | ACQUISITION | {"control": RANDOM_CONTROL}
    scopes: ClassVar[tuple[str, ...]] = SCOPES
    budget_name: ClassVar[str]

    steps: int = 20
    random_start: bool = True
    control: str = "none"
    step_rule: str = "cosine"
    loss: str = "switch"
    keep: str = "best"
    scope: str = "joint"

    @abstractmethod
    def space(self, clean: Tensor) -> Space:
        """Returns the set of points to search; its centre is no change and has the layout of a point, `[B, ...]`."""

    @property
    def budget(self) -> float:
        """Value of the parameter `budget_name`."""
        return float(getattr(self, self.budget_name))

    def perturb(self, task: Task) -> Tensor:
        """Stores the best point of all runs, or the null row's point, as the state and returns its volumes."""
        return self.search(task, self.space(task.clean))

    def search(self, task: Task, space: Space) -> Tensor:
        """Does the work of `perturb` in a space whose `render` an author may have replaced."""
        if self.control == "none":
            task.state = self.run_to_best(
                task, lambda: search(task, space, self._start(task, space), *self.way), space.render
            )
        else:
            task.state = space.project(space.centre + space.radius * space.towards(_draw(task, space)))
        with torch.no_grad():
            return space.render(task.state)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the larger excess: of the state over its bound, or of the volumes over those of the state."""
        if state is None:
            return float("inf")
        with torch.no_grad():
            made = self.space(clean).render(state)
        return max(self.beyond(state), float((made - adversarial).abs().max()))

    def beyond(self, state: Tensor) -> float:
        """Amount by which the largest number of a state exceeds the budget."""
        return float(state.abs().max()) - self.budget

    def _start(self, task: Task, space: Space) -> Tensor:
        start = task.given_start(space.centre.shape[1:])
        if start is not None:
            return start
        return space.centre + space.radius * _draw(task, space) if self.random_start else space.centre


def _draw(task: Task, space: Space) -> Tensor:
    """Uniform draw in [-1, 1] in the layout of a point; real and imaginary parts are drawn separately."""
    layout = space.centre.shape[1:]
    if space.centre.is_complex():
        return torch.view_as_complex(2 * task.draw(torch.rand, (*layout, 2)) - 1)
    return 2 * task.draw(torch.rand, layout) - 1
