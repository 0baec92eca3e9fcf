"""Defines the contracts of attacks that need more than a case: learning from other cases, or surrogates."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from freqbench.attacks.core.attack import Attack
from freqbench.core.types import Shape


@dataclass(frozen=True, kw_only=True)
class LearnedAttack(Attack):
    """An attack that learns once from some cases of a dataset and applies the result to all others.

    In a job each cell learns once, from cases that share no patient with the scored ones. From Python, `learn` returns
    the argument `learned` of each call.

    Args:
        learn_split: the split of the dataset to learn on.
        learn_cases: number of cases to learn from, the first of the split; None: all.
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
        """Returns the argument `learned` of a call: the same for equal arguments on one device.

        Args:
            model: as in a call, for one volume at a time.
            cases: cases to learn from, on the model's device, iterated once per step: images `[C, H, W, D]` in [0, 1]
                and labels `[1, H, W, D]` as in a call; sizes may differ.
            window: sides of the model's window in voxels.
            generator: source of all draws; None stands for seed 0.

        Raises:
            UserError: no cases, or images or labels that are not valid.
        """

    @property
    @abstractmethod
    def learning_passes(self) -> tuple[int, int]:
        """Forward and backward passes that `learn` takes per case."""

    @abstractmethod
    def check_learned(self, learned: Tensor, num_channels: int) -> None:
        """Raises a UserError if `learn` cannot have returned this tensor for volumes with `num_channels` channels."""


@dataclass(frozen=True, kw_only=True)
class SurrogateAttack(Attack):
    """An attack that follows the gradients of surrogates, `task.given.surrogates`.

    In a job, surrogates are other models of the job; from Python, each call takes the networks as `surrogates`.

    Args:
        surrogates: their names; the attacked network is never its own surrogate. Ignored by a call.
    """

    needs_surrogates: ClassVar[bool] = True

    surrogates: tuple[str, ...] = ()

    @property
    @abstractmethod
    def surrogate_passes(self) -> tuple[int, int]:
        """Forward and backward passes of each surrogate per window; `passes` counts the attacked network alone."""
