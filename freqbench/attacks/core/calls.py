"""Holds what one call of an attack carries along: its draws, its best volumes so far, its passes and their losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from freqbench.core.errors import UserError

STEPS = 512  # steps per table

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
        self._owner = owner
        self._generators = list(generator)
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


class Best:
    """Keeps the offered tensors with the highest value, sample by sample, without waiting for the device.

    `values` are the highest so far, `[B]`, `kept` the tensors that came with them, each `[B, ...]`; both are empty
    before the first offer. With `by_success`, values come from `Task.success`. These change in jumps, so the last of
    equal values is kept, because the loss may still have risen; otherwise the first is kept.
    """

    def __init__(self, *, by_success: bool = False) -> None:
        self.by_success = by_success
        self._is_above = torch.ge if by_success else torch.gt
        self.values = torch.empty(0)
        self.kept: tuple[Tensor, ...] = ()

    def offer(self, values: Tensor, *tensors: Tensor) -> None:
        """Takes the samples whose value beats the value kept so far; the first offer is taken whole."""
        if not self.kept:
            self.values = values
            self.kept = tensors
            return
        better = self._is_above(values, self.values)
        self.values = torch.where(better, values, self.values)
        pairs = zip(tensors, self.kept, strict=True)
        self.kept = tuple(torch.where(across(better, new), new, old) for new, old in pairs)


def across(mask: Tensor, like: Tensor) -> Tensor:
    """Reshapes a mask of samples `[B]` so that it broadcasts over a tensor `like` `[B, ...]`."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))


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


def extremes(gradient: Tensor) -> Tensor:
    """Returns the smallest and the largest entry of a `gradient`, NaN if there is one, and both of the finite ones and
    0, `[4]`."""
    entries = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return torch.stack((*entries.aminmax(), *entries.nan_to_num(0.0, 0.0, 0.0).aminmax()))


def useful_and_finite(gradients: Tensor) -> Tensor:
    """Returns, from the `extremes` of gradients `[G, 4]`, whether some entry is finite and not 0 and all are finite."""
    low, high, least, most = gradients.unbind(dim=1)
    return torch.stack(((least < 0) | (most > 0), low.isfinite() & high.isfinite()), dim=1)


@dataclass(kw_only=True)
class Passes:
    """The passes of one call.

    Attributes:
        forwards: model passes of all samples.
        backwards: gradient passes of all samples.
        losses: the objective before each step, one `[B]` per step.
        gradients: `extremes` of each gradient.
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
