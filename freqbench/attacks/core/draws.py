"""Draws random numbers for each sample of a call from its own generator."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from freqbench.core.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator]


class Draws:
    """The generators of a call's samples, one per sample; `seeds` are their initial seeds.

    Args:
        owner: the attack's name, for errors.
        generator: one per sample, or one for all; None stands for seed 0.
        batch: number of samples.
    """

    def __init__(self, owner: str, generator: Generators | None, batch: int) -> None:
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        if isinstance(generator, torch.Generator):
            generator = [generator] * batch
        if len(generator) != batch:
            raise UserError(f"{owner}: expected one generator or {batch}, one a sample, got {len(generator)}")
        self._owner, self._generators = owner, list(generator)
        self._before: list[Tensor] | None = None
        self.seeds = [g.initial_seed() for g in self._generators]

    def set_back(self, samples: Sequence[int]) -> "Draws":
        """Returns the generators of some samples, reset to their state at the first call of `set_back`."""
        if self._before is None:
            self._before = [generator.get_state() for generator in self._generators]
        for i in samples:
            self._generators[i].set_state(self._before[i])
        return Draws(self._owner, [self._generators[i] for i in samples], len(samples))

    def stacked(self, sample: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        """Draws with `torch.rand` or `torch.randn` from each generator: float32 `[B, *shape]`, on their device."""
        return torch.stack([sample(shape, generator=g, device=g.device, dtype=torch.float32) for g in self._generators])
