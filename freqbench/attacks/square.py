"""Square Attack, a search without gradients.  Andriushchenko et al., ECCV 2020, arXiv:1912.00049."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.core.attack import LinfAttack
from freqbench.attacks.core.calls import across
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.task import Task
from freqbench.ops.projections import linf_ball

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
OF = 10_000


def share(p_init: float, query: int, queries: int) -> float:
    """Returns a cube's share of the window at a query (from 0): halved after 10, 50, 200, ... of 10,000 queries."""
    at = query * OF // queries
    return p_init * 0.5 ** sum(at > halving for halving in HALVINGS)


@dataclass(frozen=True, kw_only=True)
class Square(GradientAttack, LinfAttack):
    r"""Random search on the boundary of the ball: cubes of +eps or -eps, tried one by one, stay if they raise the loss.

    The first query is stripes: every line along the first axis is moved by +eps or -eps. Each further query puts a cube
    of clean + eps or clean - eps, inside [0, 1], at a uniformly drawn place into the best volume so far, and replaces
    it, sample by sample, if the loss is higher. In a window of N voxels the cube's side is

    .. math:: s = \mathrm{round}(\sqrt[3]{p N})

    at least 1 and cut to the window, where p is `p_init`, halved by the schedule of `share`. The sign is drawn too; if
    it would change nothing, it is flipped. Stripes and cubes have a sign in each channel; a cube has the same place in
    all channels. A query is a forward pass; no gradient is ever taken.

    The attack takes the parameters of gradient attacks, because it raises the same losses. `loss` is Dice +
    cross-entropy: queries differ only in the sum over all voxels, and the Dice keeps the background from dominating it.
    Masked losses are compared by the cross-entropy. With `keep: best` a run spends one more pass.

    `start`: the additive noise in [-eps, eps] of the first query, `[B, C, H, W, D]`.

    **Differs from the paper**: cubes instead of squares; the loss instead of a classifier's margin; no run stops early.
    **Differs from the authors' code**: a cube may reach the window's last planes and may cover the whole window.
    """

    name = "square"
    is_stochastic = True
    variants = ("paper",)

    queries: int = 10_000
    p_init: float = 0.05
    variant: str = "paper"

    @property
    def run_passes(self) -> tuple[int, int]:
        """One forward pass per query."""
        return self.queries, 0

    def run(self, task: Task) -> Tensor:
        """Runs the search."""
        project = linf_ball(task.clean, self.eps)
        low, high = project(task.clean - 1), project(task.clean + 1)
        x = project(task.clean + self.draw_start(task))
        highest = task.look(x)
        layout = self.queries - 1, 3 + x.shape[1]
        draws = task.draw(torch.rand, layout).unbind(dim=1)  # all at once, because each copy makes the device wait
        for query, draw in enumerate(draws):
            cube, is_up = _cube(task.clean, share(self.p_init, query, self.queries), draw)
            is_there = torch.where(cube, x == torch.where(is_up, high, low), True)
            is_up = is_up ^ across(is_there.flatten(1).all(dim=1), is_up)
            ahead = torch.where(cube, torch.where(is_up, high, low), x)
            value = task.look(ahead)
            better = value > highest
            x = torch.where(across(better, x), ahead, x)
            highest = torch.where(better, value, highest)
        return x

    def draw_start(self, task: Task) -> Tensor:
        """Returns stripes, or the `start` of the call."""
        start = task.given_start()
        if start is None:
            channels, _, *space = task.clean.shape[1:]
            start = self.eps * (2 * task.draw(torch.rand, (channels, 1, *space)).round() - 1)
        return start


def _cube(like: Tensor, p: float, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a cube's voxels for each sample, `[B, 1, H, W, D]`, and the channels where it goes up, `[B, C, 1, 1, 1]`.

    `draw`, `[B, 3 + C]` in [0, 1), holds its place on each axis and its sign in each channel.
    """
    window = like.shape[2:]
    side = max(round((p * window.numel()) ** (1 / 3)), 1)
    places, signs = draw[:, :3].T, draw[:, 3:]
    cube = torch.ones_like(like[:, :1], dtype=torch.bool)
    for axis, (length, place) in enumerate(zip(window, places, strict=True), start=2):
        extent = min(side, length)
        first = (place * (length - extent + 1)).floor()[:, None]
        index = torch.arange(length, device=place.device)
        inside = (index >= first) & (index < first + extent)  # [B, length]
        shape = [len(inside), 1, 1, 1, 1]
        shape[axis] = length
        cube = cube & inside.reshape(shape)
    return cube, (signs >= 0.5)[:, :, None, None, None]
