"""Keeps the objective of every step."""

import torch
from torch import Tensor

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
