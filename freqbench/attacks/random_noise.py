"""Random noise of a stated L-infinity or L2 size: the control row of every table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.task import Task


@dataclass(frozen=True, kw_only=True)
class RandomNoise(Attack):
    r"""A random corner of the L-infinity ball, or a random direction of stated L2 norm; no query of the model.

    With n standard normal in every voxel and the norm over all voxels of a window, all channels together:

    .. math:: x' = \mathrm{clamp}\bigl(x + linf \cdot \mathrm{sign}(n), 0, 1\bigr) \qquad\text{or}\qquad
              x' = \mathrm{clamp}(x + c \, n, 0, 1) \ \text{with}\ \| x' - x \|_2 = l2

    At equal linf no change inside the ball is larger, so an attack's effect beyond this row is not due to its size. c
    compensates for the clamping where volumes are 0 or 1. `targeted` has no effect. Exactly one of `linf` and `l2` is
    given; it is the budget and sets the threat model.

    Args:
        linf: size of every voxel's change, on the [0, 1] intensity scale.
        l2: Euclidean norm of a window's change on that scale, after clamping, or the largest norm that fits into [0, 1]
            if that is less. The records' column `l2` is the norm over a volume: about sqrt(n) times as much for n
            windows.

    `start`: the standard normals, `[B, C, H, W, D]`.
    """

    name = "random_noise"
    is_stochastic = True
    passes = (0, 0)

    linf: float | None = None
    l2: float | None = None

    @property
    def budget_name(self) -> str:
        """`linf` or `l2`, the one that is given."""
        return "linf" if self.l2 is None else "l2"

    @property
    def threat_model(self) -> str:
        """`linf` or `l2`, as the budget."""
        return self.budget_name

    @property
    def size(self) -> float:
        """Value of the given budget, `linf` or `l2`."""
        return getattr(self, self.budget_name)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the largest voxel change beyond `linf`, or the largest norm of a window's change beyond `l2`."""
        change = adversarial.double() - clean
        reached = change.abs() if self.l2 is None else _norm(change)
        return float(reached.max()) - self.size

    def perturb(self, task: Task) -> Tensor:
        """Adds the noise."""
        start = task.given_start()
        normals = task.draw(torch.randn) if start is None else start
        if self.l2 is None:
            return (task.clean + torch.full_like(normals, self.size).copysign(normals)).clamp(0, 1)
        # Double precision: single would miss large norms by more than the bound allows.
        clean, normals = task.clean.double(), normals.double()
        room = torch.where(normals.signbit(), clean, 1 - clean)
        change = _filled(normals.abs(), room, self.size).copysign(normals)
        return (clean + change).clamp(0, 1).to(task.clean)


def _filled(sizes: Tensor, room: Tensor, norm: float) -> Tensor:
    """Scales sizes by one number per window and cuts them to their room, so that they have this norm, if it fits."""
    sizes = sizes.clamp(min=torch.finfo(sizes.dtype).tiny)  # keeps 0 from being multiplied by infinity
    full = room <= 0
    while True:
        # The missing norm is spread over voxels with room left, which may fill some more.
        missing = (norm**2 - _norm(room * full).square()).clamp(min=0)
        filled = torch.where(full, room, missing.sqrt() / _norm(sizes * ~full) * sizes)
        too_much = filled > room
        if not too_much.any():
            return filled
        full = full | too_much


def _norm(change: Tensor) -> Tensor:
    return torch.linalg.vector_norm(change, dim=(1, 2, 3, 4), keepdim=True)
