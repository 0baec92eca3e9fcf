"""FMN, fast minimum-norm attacks.  Pintor et al., NeurIPS 2021, arXiv:2102.12827."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.core.calls import across
from freqbench.attacks.core.parameters import BOUNDARY_LOSS, DECISION, NORM, PARAMETERS, RMS_STEP
from freqbench.attacks.ddn import DDN, GAMMA, Reached, norm_of

LAST_GAMMA = 0.001


@dataclass(frozen=True, kw_only=True)
class FMN(DDN):
    r"""Seeks the smallest change in either norm after which the foreground Dice of a volume is at most `dice`.

    A step follows the gradient, scaled to a Euclidean norm of alpha, then projects onto the ball of radius r and clamps
    to [0, 1]. The radius adapts: with q the dual norm (L1 for `linf`, L2 for `l2`) and b the loss at the boundary,

    .. math:: r \leftarrow \min\bigl((1 - \gamma) r, r_{best}\bigr) \;\text{fallen}; \qquad
              (1 + \gamma) r \;\text{found before}; \qquad
              \lVert d \rVert + \frac{|L - b|}{\lVert dL/dx \rVert_q} \;\text{else}

    gamma falls along a cosine from 0.05 to 0.001, and alpha to a hundredth. All steps together so shrink r to no less
    than exp(-0.0255 steps) of the first radius that succeeds: to 1/13 by 100 steps, but only to 0.6 by 20. r_best is
    the smallest norm that made the volume fall. What is kept, parameters and `state` are those of `ddn`; for `linf` the
    size is the largest change of a voxel, in a row `smallest_linf`.

    Args:
        norm: `linf` or `l2`, the norm that is made small.
        loss: `margin`, which is the paper's loss where a volume has one voxel, with b = 0; or `dice_linear`, with b = 1
            - `dice`, which lies at the boundary but for the softness of its Dice.

    **Differs from the authors' code** as `ddn` does; a change is never scaled up to the radius.
    """

    name = "fmn"
    parameters = PARAMETERS | {"dice": DECISION, "step_size": RMS_STEP, "loss": BOUNDARY_LOSS, "norm": NORM}

    norm: str = "linf"
    loss: str = "dice_linear"

    @property
    def threat_model(self) -> str:
        """`linf-minimal` or `l2-minimal`, as the norm."""
        return f"{self.norm}-minimal"

    def first_radius(self, farthest: Tensor, first: float) -> Tensor:
        """Returns no bound."""
        return torch.full_like(farthest, math.inf)

    def next_radius(self, at: Reached, radius: Tensor) -> Tensor:
        """Returns the radius of the ball that a step from the point `at` is projected onto."""
        gamma = LAST_GAMMA + (GAMMA - LAST_GAMMA) * at.cosine
        boundary = 0 if self.loss == "margin" else 1 + at.needed
        distance = (at.loss - boundary).abs() / norm_of(at.gradient, 1 if self.norm == "linf" else 2)
        farther = torch.where(at.found, (1 + gamma) * radius, at.norm + distance)
        return torch.where(at.fallen, ((1 - gamma) * radius).minimum(at.smallest), farther)

    def within(self, change: Tensor, radius: Tensor) -> Tensor:
        """Projects a change onto the ball of a `radius` `[B]`."""
        edge = across(radius, change)
        if self.norm == "linf":
            return change.clamp(-edge, edge)
        return change * (edge / across(norm_of(change, 2), change)).clamp(max=1)

    def norm_of(self, change: Tensor) -> Tensor:
        """Returns the norm of a `change` that is made small, `[B]`."""
        return norm_of(change, math.inf if self.norm == "linf" else 2)

    def size_of(self, norm: Tensor, clean: Tensor) -> Tensor:
        """Returns the size of changes of `clean` volumes of a norm, as rows state it."""
        return norm if self.norm == "linf" else super().size_of(norm, clean)
