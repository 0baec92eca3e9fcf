"""How often a unit is tried: pure."""

from dataclasses import dataclass

from freqbench.job.grid import Unit

TRIES = 3
NODE_LOSSES = 10  # a pre-empted machine is nobody's fault, but a unit may also be what ends machines


@dataclass(kw_only=True)
class Attempt:
    """A unit and what it has cost already."""

    unit: Unit
    deaths: int = 0
    node_losses: int = 0

    @property
    def name(self) -> str:
        """What a user calls the unit."""
        cell = self.unit.cell
        return f"{cell.attack.name} on {cell.source.name}, {self.unit.ref.case_id}"

    @property
    def losses(self) -> int:
        """How often it was lost."""
        return self.deaths + self.node_losses

    @property
    def is_hopeless(self) -> bool:
        """Whether it has been tried often enough."""
        return self.deaths >= TRIES or self.node_losses >= NODE_LOSSES

    def lose(self, node_loss: bool) -> None:
        """Its worker died, or the whole machine went away."""
        self.node_losses += node_loss
        self.deaths += not node_loss
