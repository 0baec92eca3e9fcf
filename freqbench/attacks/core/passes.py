"""Counts the passes of one call of an attack, and keeps what was seen on the way."""

from dataclasses import dataclass, field

from torch import Tensor

from freqbench.attacks.core.best import Best


@dataclass(kw_only=True)
class Passes:
    """The passes of one call.

    Attributes:
        forwards: model passes of all samples.
        backwards: gradient passes of all samples.
        losses: the objective before each step, one `[B]` a step.
        best: takes the volumes that `Task.gradient` and `Task.look` look at; None: these are not compared.
    """

    forwards: int = 0
    backwards: int = 0
    losses: list[Tensor] = field(default_factory=list)
    best: Best | None = None

    def of_samples(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Forward and backward passes of each of so many samples."""
        return (self.forwards,) * batch, (self.backwards,) * batch
