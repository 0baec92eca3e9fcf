"""Defines the contracts of attacks that need more than a case: what they learned from others, or surrogates."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from freqbench.attacks.core.base import Attack
from freqbench.core.types import Shape


@dataclass(frozen=True, kw_only=True)
class LearnedAttack(Attack):
    """An attack that learns from some cases of a dataset, once for all others, what it does to them.

    In a job each cell learns once, on a list without a case or patient of those that are scored; from Python by
    `learn`, whose result each call takes as `learned`.

    Args:
        learn_split: the split of the dataset to learn on.
        learn_cases: its first so many cases; None: all.
    """

    needs_learned: ClassVar[bool] = True

    learn_split: str = "train"
    learn_cases: int | None = 8

    @abstractmethod
    def learn(
        self,
        model: nn.Module,
        cases: Iterable[tuple[Tensor, Tensor]],
        window: Shape,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What a call takes as `learned`: the same for equal arguments on one device.

        Args:
            model: as of a call, for one volume at a time.
            cases: to learn from, on the model's device, iterated once a step: images `[C, H, W, D]` in [0, 1] and
                labels `[1, H, W, D]` as of a call, which may differ in size.
            window: voxels of the model's window.
            generator: of all draws; None stands for seed 0.

        Raises:
            UserError: no cases, or images or labels are not what they must be.
        """

    @property
    @abstractmethod
    def learning_passes(self) -> tuple[int, int]:
        """Forward and backward passes that `learn` takes a case."""

    @abstractmethod
    def check_learned(self, learned: Tensor, num_channels: int) -> None:
        """Raise a UserError for what `learn` cannot have returned for volumes of so many channels."""


@dataclass(frozen=True, kw_only=True)
class SurrogateAttack(Attack):
    """An attack that follows the gradients of surrogates, `task.given.surrogates`.

    In a job surrogates are other models of the job; from Python each call takes the networks as `surrogates`.

    Args:
        surrogates: their names; the network that is attacked is none of its own surrogates. No matter to a call.
    """

    needs_surrogates: ClassVar[bool] = True

    surrogates: tuple[str, ...] = ()

    @property
    @abstractmethod
    def surrogate_passes(self) -> tuple[int, int]:
        """Forward and backward passes of each surrogate a window; `passes` are those of the attacked network alone."""
