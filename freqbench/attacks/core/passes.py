"""Counts the passes of one call of an attack and keeps losses and flags of its steps."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from freqbench.attacks.core.best import Best

STEPS = 512  # steps per table


class Trace:
    """Values `[B]` of each step so far, kept in tables.

    A small tensor that outlives its step fragments the memory that the large ones of the step free, and the C allocator
    then requests new memory at almost every step: 400 steps at 64^3 took 1 GB.
    """

    def __init__(self) -> None:
        self._tables: list[Tensor] = []
        self._count = 0

    def append(self, values: Tensor) -> None:
        """Adds the values of another step, without waiting for the device."""
        row = self._count % STEPS
        if row == 0:
            self._tables.append(values.new_empty((STEPS, *values.shape)))
        self._tables[-1][row] = values
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def stacked(self) -> Tensor:
        """Returns the values of all steps, `[steps, B]`; an empty tensor before the first step."""
        return torch.cat(self._tables)[: self._count] if self._tables else torch.empty(0)


@dataclass(kw_only=True)
class Passes:
    """The passes of one call.

    Attributes:
        forwards: model passes of all samples.
        backwards: gradient passes of all samples.
        losses: the objective before each step, one `[B]` per step.
        gradients: two flags per gradient, bool `[2]`: some entry is finite and not 0; all entries are finite.
        best: receives the volumes that `Task.gradient` and `Task.look` evaluate; None: volumes are not compared.
    """

    forwards: int = 0
    backwards: int = 0
    losses: Trace = field(default_factory=Trace)
    gradients: Trace = field(default_factory=Trace)
    best: Best | None = None

    def of_samples(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns forward and backward passes of each of `batch` samples."""
        return (self.forwards,) * batch, (self.backwards,) * batch
