"""Random noise of a stated L-infinity or L2 size: the control row of every table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.task import Task
from freqbench.ops.projections import filled


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
        """Returns the largest voxel change from `clean` to `adversarial` beyond `linf`, or the largest norm of a
        window's change beyond `l2`; no `state` is needed."""
        change = adversarial.double() - clean
        reached = change.abs() if self.l2 is None else torch.linalg.vector_norm(change.flatten(1), dim=1)
        return float(reached.max()) - self.size

    def perturb(self, task: Task) -> Tensor:
        """Adds the noise."""
        start = task.given_start()
        normals = task.draw(torch.randn) if start is None else start
        if self.l2 is None:
            return (task.clean + torch.full_like(normals, self.size).copysign(normals)).clamp(0, 1)
        return with_norm(task.clean, normals, self.size)


def with_norm(clean: Tensor, normals: Tensor, norm: float) -> Tensor:
    """Returns `clean` volumes with a change along the normals that has this Euclidean norm after the clamp, as far as
    it fits."""
    # Double precision: single would miss large norms by more than the bound allows.
    x = clean.double()
    normals = normals.double()
    room = torch.where(normals.signbit(), x, 1 - x)
    return (x + filled(normals.abs(), room, norm).copysign(normals)).clamp(0, 1).to(clean)
