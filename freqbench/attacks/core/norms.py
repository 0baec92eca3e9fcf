"""Defines attacks in a ball of intensities whose norm is a parameter."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.parameters import SCOPES
from freqbench.attacks.core.task import Task
from freqbench.ops.projections import l2_ball, linf_ball, rms, unit_rms

RMS_BUDGETS = ("eps", "std")
"""Budgets in the threat model `l2` that are a root mean square; the others are a Euclidean norm."""


@dataclass(frozen=True, kw_only=True)
class NormAttack(Attack):
    r"""An attack inside `{ x : norm(x - clean) <= eps, 0 <= x <= 1 }`; eps is a radius on the [0, 1] intensity scale.

    Args:
        norm: `linf`: the largest change of a voxel. `l2`: the root mean square (rms) of the change over the attacked
            voxels of a sample, so that one eps means the same in windows of any size. The Euclidean norm is eps times
            the root of their number; a row's column `l2` has it for the whole volume. With `scope: joint` all windows
            share one ball, over the voxels of the volume that they make. Steps go along the gradient, scaled to an rms
            of 1, in place of its sign; volumes are projected onto ball and [0, 1] together
            (`freqbench.ops.projections.l2_ball`); a random start has normal noise of an rms of eps.
    """

    budget_name = "eps"
    scopes = SCOPES

    eps: float
    norm: str = "linf"

    @property
    def threat_model(self) -> str:
        """`linf` or `l2`, as the norm."""
        return self.norm

    def projection(self, task: Task, eps: float | None = None) -> Callable[[Tensor], Tensor]:
        """Returns the projection of volumes of `task` onto the ball, or onto that of another radius `eps`, and onto [0,
        1]."""
        radius = self.eps if eps is None else eps
        if self.norm == "linf":
            return linf_ball(task.clean, radius)
        return l2_ball(task.clean, radius, self.counted(task))

    def towards(self, task: Task) -> Callable[[Tensor], Tensor]:
        """Returns the function that turns a gradient into the step of norm 1 that raises most."""
        if self.norm == "linf":
            return torch.sign
        counted = self.counted(task)
        return lambda gradient: unit_rms(gradient, counted)

    def counted(self, task: Task) -> Tensor | None:
        """Returns the voxels of a ball that all windows share, bool `[B, 1, H, W, D]`; None: each has its own."""
        if self.scope != "joint":
            return None
        seen: Tensor | None = getattr(task.model, "seen", None)
        return torch.ones_like(task.clean[:, :1], dtype=torch.bool) if seen is None else seen.to(task.clean.device)

    def draw_start(self, task: Task) -> Tensor:
        """Returns uniform noise in [-eps, eps], in `l2` normal noise of this rms; or the `start` of the call."""
        start = task.given_start()
        if start is not None:
            return start
        if self.norm == "linf":
            return self.eps * (2 * task.draw(torch.rand) - 1)
        return self.eps * self.towards(task)(task.draw(torch.randn))

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the norm of the change from `clean` to `adversarial` volumes, less `eps`; no `state` is needed."""
        if self.norm == "linf":
            return float((adversarial - clean).abs().max()) - self.eps
        together = torch.ones_like(clean[:, :1], dtype=torch.bool) if self.scope == "joint" else None
        return float(rms(adversarial - clean, together).max()) - self.eps
