"""Defines the contract of an attack that follows the gradients of other networks than the one that it attacks."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from freqbench.attacks.core.base import Attack
from freqbench.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SurrogateAttack(Attack):
    """An attack that follows the gradients of surrogates; `Task.on_surrogates` has a Task on each.

    In a job surrogates are other models of the job; from Python each call takes the networks as `surrogates`.

    Args:
        surrogates: their names; the network that is attacked is none of its own surrogates. No matter to a call.
    """

    surrogates: tuple[str, ...] = ()

    @property
    @abstractmethod
    def surrogate_passes(self) -> tuple[int, int]:
        """Forward and backward passes of each surrogate a window; `passes` are those of the attacked network alone."""

    def _check_surrogates(self, surrogates: Sequence[nn.Module]) -> None:
        if not surrogates:
            raise UserError(f"{self.name}: expected surrogates, got none: give networks, surrogates=[...]")
