"""Random draws of a batch, every sample from its own generator."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from freqbench.core.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator]


class Draws:
    """The generators of a batch.

    Args:
        owner: the attack, for the message.
        generator: one for the batch or one a sample; None stands for seed 0.
        batch: the number of samples.

    Raises:
        UserError: another number of generators.
    """

    def __init__(self, owner: str, generator: Generators | None, batch: int) -> None:
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        if isinstance(generator, torch.Generator):
            generator = [generator] * batch
        if len(generator) != batch:
            raise UserError(f"{owner}: expected one generator or {batch}, one a sample, got {len(generator)}")
        self._generators = list(generator)
        self._states: list[Tensor] | None = None

    @property
    def seeds(self) -> list[int]:
        """What each sample's generator was seeded with."""
        return [generator.initial_seed() for generator in self._generators]

    def draw(self, sample: Callable[..., Tensor], shape: Sequence[int], like: Tensor) -> Tensor:
        """One draw a sample, stacked, in the dtype and on the device of `like`.

        Args:
            sample: the sampler, `torch.rand` or `torch.randn`; always drawn in float32, so that float64 runs see the
                same numbers.
            shape: of one draw.
            like: gives dtype and device.
        """
        draws = [sample(shape, generator=g, device=g.device, dtype=torch.float32) for g in self._generators]
        return torch.stack([draw.to(like) for draw in draws])

    def rewound(self, samples: Sequence[int]) -> list[torch.Generator]:
        """The generators of some samples, where they were at the first call of this function."""
        if self._states is None:
            self._states = [generator.get_state() for generator in self._generators]
        for i in samples:
            self._generators[i].set_state(self._states[i])
        return [self._generators[i] for i in samples]
