"""Counts the passes of one call of an attack, and keeps what was seen on the way."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from freqbench.attacks.core.best import Best

STEPS = 512  # of a table


class Trace:
    """Values `[B]` of the steps so far, kept in tables.

    A small tensor that outlives its step splits the room that the large ones of the step leave, and the C allocator
    then asks for new room at almost every step: 400 steps at 64^3 took 1 GB.
    """

    def __init__(self) -> None:
        self._tables: list[Tensor] = []
        self._count = 0

    def append(self, values: Tensor) -> None:
        """Take the values of a further step, without asking the device."""
        row = self._count % STEPS
        if row == 0:
            self._tables.append(values.new_empty((STEPS, *values.shape)))
        self._tables[-1][row] = values
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def stacked(self) -> Tensor:
        """Those of all steps, `[steps, B]`; an empty tensor before the first."""
        return torch.cat(self._tables)[: self._count] if self._tables else torch.empty(0)


@dataclass(kw_only=True)
class Passes:
    """The passes of one call.

    Attributes:
        forwards: model passes of all samples.
        backwards: gradient passes of all samples.
        losses: the objective before each step, one `[B]` a step.
        gradients: two flags a gradient, bool `[2]`: an entry is finite and not 0; all are finite.
        best: takes the volumes that `Task.gradient` and `Task.look` look at; None: these are not compared.
    """

    forwards: int = 0
    backwards: int = 0
    losses: Trace = field(default_factory=Trace)
    gradients: Trace = field(default_factory=Trace)
    best: Best | None = None

    def of_samples(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Forward and backward passes of each of so many samples."""
        return (self.forwards,) * batch, (self.backwards,) * batch
