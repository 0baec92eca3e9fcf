"""Defines the contract of an attack that follows the gradients of other networks than the one that it attacks."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from freqbench.attacks.core.base import Attack


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
