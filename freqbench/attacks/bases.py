"""BASES, a search for the weights of surrogates.  Cai et al., NeurIPS 2022, arXiv:2208.03610."""

from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from freqbench.attacks.core.attack import LinfAttack, SurrogateAttack
from freqbench.attacks.core.calls import Best, Trace, across
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import PARAMETERS, SURROGATES, UNIFORM_CONTROL
from freqbench.attacks.core.task import Task
from freqbench.attacks.core.values import step_length
from freqbench.ops.projections import linf_ball


@dataclass(frozen=True, kw_only=True)
class BASES(SurrogateAttack, GradientAttack, LinfAttack):
    r"""PGD on a weighted mean of surrogates' losses; queries of the attacked network find the most harmful weights.

    With surrogates f_i and weights w_i, equal at first, each at least 0 and with sum 1, G runs `steps` iterations of

    .. math:: x \leftarrow P\Bigl(x + step\_size \, \mathrm{sign} \sum_i w_i \frac{d}{dx} L\bigl(f_i(x), y\bigr)\Bigr)

    where P projects onto the eps-ball and [0, 1]. The first query is x = G(clean, w). Then the surrogates take turns:
    `weight_step` is added to w_i and subtracted from it (negative weights become 0, and the sum is made 1 again), both
    x' = G(x, w') are computed from the last volume x, and both are queried. The search continues from the x' and w'
    with the higher loss, sample by sample. The result is the queried volume with the highest loss.

    A query is a forward pass of the attacked network; its gradient is never taken. The answer is the loss, as in
    Square: `loss`, or the cross-entropy for masked losses. The attack takes the parameters of gradient attacks.

    `control: uniform`: equal weights, without a search. Every query continues from the last volume, so that equal
    queries take equal gradients of the surrogates. The same holds for a single surrogate.

    Args:
        queries: forward passes of the attacked network; each comes with `steps` iterations of every surrogate.
        steps: gradient steps per query; each takes one forward and one backward pass of every surrogate.
        step_size: length of a step on the [0, 1] intensity scale, or `eps/4`; None: 3 eps / steps, the authors'.

    `state`: the final weights of the search, `[B, n]`, in the order of the surrogates.

    **Differs from the authors' code**: weights stay at least 0 and sum to 1; they move by 0.2 instead of 0.005, which
    on the phantom's networks gains little over equal weights; the loss replaces a classifier's margin; no run stops
    early; the result is the best volume, not the last.
    """

    name = "bases"
    variants = ("paper",)
    parameters = PARAMETERS | SURROGATES | {"control": UNIFORM_CONTROL}

    queries: int = 50
    steps: int = 10
    step_size: float | str | None = None
    weight_step: float = 0.2
    control: str = "none"
    variant: str = "paper"

    @property
    def run_passes(self) -> tuple[int, int]:
        """One forward pass per query."""
        return self.queries, 0

    @property
    def surrogate_passes(self) -> tuple[int, int]:
        """One forward and one backward pass per step."""
        return self.queries * self.steps, self.queries * self.steps

    def run(self, task: Task) -> Tensor:
        """Runs the search."""
        surrogates = [_on(task, network) for network in task.given.surrogates]
        project = linf_ball(task.clean, self.eps)
        step = 3 * self.eps / self.steps if self.step_size is None else step_length(self.step_size, self.eps)

        def raised(x: Tensor, weights: Tensor) -> Tensor:
            for _ in range(self.steps):
                gradients = [
                    across(w, x) * surrogate.gradient(x) for w, surrogate in zip(weights.T, surrogates, strict=True)
                ]
                x = project(x + step * torch.stack(gradients).sum(dim=0).sign())
            return x

        count = len(surrogates)
        is_searched = self.control == "none" and count > 1
        x = task.clean
        weights = task.clean.new_full((len(task.clean), count), 1 / count)
        best = Best()
        asked = 0
        turn = 0
        while asked < self.queries:
            moves = (self.weight_step, -self.weight_step) if turn and is_searched else (0.0,)
            ahead = Best()
            for move in moves[: self.queries - asked]:
                tried = _moved(weights, (turn - 1) % count, move)
                volumes = raised(x, tried)
                ahead.offer(task.look(volumes), volumes, tried)
            x, weights = ahead.kept
            best.offer(ahead.values, x)
            asked = asked + len(moves)
            turn = turn + 1
        task.state = weights
        (x,) = best.kept
        return x


def _on(task: Task, network: nn.Module) -> Task:
    """Makes a task of the same volumes and objective on another network, with separate passes and losses."""
    other = copy(task)
    other.model = network
    other.passes = replace(task.passes, losses=Trace(), best=None)
    return other


def _moved(weights: Tensor, i: int, move: float) -> Tensor:
    """Returns weights `[B, n]` with the i-th moved, all at least 0, and with sum 1."""
    moved = weights.clone()
    moved[:, i] = (moved[:, i] + move).clamp(min=0)
    return moved / moved.sum(dim=1, keepdim=True)
