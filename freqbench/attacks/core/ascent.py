"""Follows the gradient of a loss less a penalty, sample by sample, as VAFA and SA2 do."""

from collections.abc import Callable

import torch
from torch import Tensor

from freqbench.attacks.core.calls import Best, across
from freqbench.attacks.core.task import Task

Render = Callable[[Tensor], Tensor]
Distance = Callable[[Tensor], Tensor]


class Ascent:
    """One run of gradient steps on a state (a table, multipliers). A sample that reaches its aim stops.

    The objective is J = term(logits, L) - price(a), with L the task loss at the volume a.

    Args:
        task: the call of the attack.
        keep: `last`: the result is the last volume evaluated; `best`: that of the highest J.
        term: function that takes logits and L, `[B]`, and returns the part of J before the price, `[B]`.
        price: function that takes a and returns a penalty, `[B]`; None: no penalty.
    """

    def __init__(
        self,
        task: Task,
        keep: str,
        term: Callable[[Tensor, Tensor], Tensor] = lambda logits, loss: loss,
        price: Distance | None = None,
    ) -> None:
        self.task = task
        self.term = term
        self.price = price
        self.best = Best() if keep == "best" else None
        self.volume = task.clean
        self.value = task.clean.new_zeros(len(task.clean))
        self.running = self.moving = torch.ones(len(task.clean), dtype=torch.bool, device=task.clean.device)

    def gradient(self, state: Tensor, render: Render) -> Tensor:
        """Returns dJ/dstate at the volume a = render(state), and keeps a as the last volume."""
        gradient, (a, value, reached) = self.task.gradient_and(state, lambda state: self._objective(render(state)))
        self.volume = torch.where(across(self.running, a), a, self.volume)
        self.value = torch.where(self.running, value, self.value)
        if self.best is not None:
            self.best.offer(self.value, self.volume, state)
        self.moving = self.running
        self.running = self.running & ~reached
        return gradient

    def move(self, state: Tensor, moved: Tensor) -> Tensor:
        """Returns `moved` for samples that had not stopped before the last gradient, `state` for the others."""
        return torch.where(across(self.moving, state), moved, state)

    def result(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the last volume and `state`, the last one; with `best`, the best volume and its state."""
        if self.best is None:
            return self.volume, state
        volume, kept = self.best.kept
        return volume, kept

    def _objective(self, a: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Returns J, `[B]`, and beside it the volume, its value for comparisons and which samples reach their aim."""
        objective = self.task.objective
        logits = self.task.logits(a)
        loss = objective.raised(logits)
        raised = self.term(logits, loss)
        # Computed after the network, so that its backward pass runs first: that of the network switches on TF32.
        price = a.new_zeros(len(a)) if self.price is None else self.price(a)
        with torch.no_grad():
            value = self.term(logits, objective.compared(logits, loss)) - price
        return raised - price, (a.detach(), value, objective.is_reached(logits))


def penalty(weight: float, make: Callable[[], Distance]) -> Distance | None:
    """Returns the price `weight` times the distance that `make` prepares; None if the weight is 0."""
    if not weight:
        return None
    distance = make()
    return lambda a: weight * distance(a)
