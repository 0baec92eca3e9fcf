"""What an engine tells whoever called it, and hands to them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from freqbench.engine.rows import Outcome
from freqbench.job.grid import Unit


class Listener(Protocol):
    """`take` and `tick` come from one thread, the others from the one that called the engine."""

    def begin(self, unit: Unit) -> None:
        """A unit is taken up."""

    def take(self, outcome: Outcome) -> None:
        """A unit is through: its rows are to be stored."""

    def tick(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """About a second has passed, whether or not a unit came through; also called at the end.

        Args:
            workers: what the time of each went to so far, as `clocks.Clock.facts` says it.
        """

    def tell(self, text: str) -> None:
        """Something that the user should see while it lasts."""

    def warn(self, text: str) -> None:
        """Something that the user should still find after the run."""
