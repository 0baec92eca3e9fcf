"""Square Attack, a search without gradients.  Andriushchenko et al., ECCV 2020, arXiv:1912.00049."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from freqbench.attacks.core.calls import Best, across
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.norms import NormAttack
from freqbench.attacks.core.task import Task
from freqbench.ops.projections import rms

GRID = 5  # bumps on each axis of the first query in `l2`
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
OF = 10_000
TINY = 1e-10


def share(p_init: float, query: int, queries: int) -> float:
    """Returns a cube's share of the window at a query (from 0), `p_init` at first: halved after 10, 50, 200, ... of
    10,000 queries."""
    at = query * OF // queries
    return p_init * 0.5 ** sum(at > halving for halving in HALVINGS)


@dataclass(frozen=True, kw_only=True)
class Square(GradientAttack, NormAttack):
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

    With `norm: l2` the first query is a grid of bumps, five on each axis, and every query has an rms of eps before it
    is clamped to [0, 1]. A bump is a pyramid: n cubes that grow around its centre, the n-th weighing 1 / n^2. A query
    draws two cubes of an odd side of at least 3. The change in the second goes back to 0. The change in the first
    becomes, in each channel, its own direction plus that of a pair of bumps, one up and one down, split along a random
    axis and with a random sign; its norm is what both cubes had, with an equal part of what is left of eps.

    `aim: foreground` puts the middle of each cube on a voxel of the predicted foreground, drawn from that of the first
    query's volume; of a window without one, anywhere. It asks for no query more.

    `start`: the additive noise in [-eps, eps] of the first query, `[B, C, H, W, D]`; in `l2` it is scaled to eps.

    **Differs from the paper**: cubes instead of squares; the loss instead of a classifier's margin; no run stops early.
    **Differs from the authors' code**: a cube may reach the window's last planes and may cover the whole window.
    """

    name = "square"
    is_stochastic = True
    variants = ("paper",)

    queries: int = 10_000
    p_init: float = 0.05
    aim: str = "window"
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aim != "window" and self.scope == "joint":
            self.refuse("aim", f"expected window with scope joint, whose logits are of the volume, got {self.aim}")

    @property
    def run_passes(self) -> tuple[int, int]:
        """One forward pass per query."""
        return self.queries, 0

    def run(self, task: Task) -> Tensor:
        """Runs the search."""
        if self.norm == "l2":
            return self._run_l2(task)
        project = self.projection(task)
        low = project(task.clean - 1)
        high = project(task.clean + 1)
        x = project(task.clean + self.draw_start(task))
        best, seen = self._first(task, x)
        layout = self.queries - 1, 3 + x.shape[1]
        draws = task.draw(torch.rand, layout).unbind(dim=1)  # all at once, because each copy makes the device wait
        for query, draw in enumerate(draws):
            side = side_of(share(self.p_init, query, self.queries), task.clean)
            cube, _ = _cube(task.clean, side, _aimed(draw[:, :3], seen, side, task.clean))
            is_up = draw[:, 3:, None, None, None] >= 0.5
            is_there = torch.where(cube, x == torch.where(is_up, high, low), True)
            is_up = is_up ^ across(is_there.flatten(1).all(dim=1), is_up)
            ahead = torch.where(cube, torch.where(is_up, high, low), x)
            best.offer(task.look(ahead), ahead)
            (x,) = best.kept
        return x

    def _run_l2(self, task: Task) -> Tensor:
        clean = task.clean
        towards = self.towards(task)
        counted = self.counted(task)
        number = clean[0].numel() if counted is None else int(counted.expand_as(clean).sum())
        balls = 1 if counted is None else len(clean)  # windows that share what is left of one ball
        x = (clean + self.eps * towards(self.draw_start(task))).clamp(0, 1)
        best, seen = self._first(task, x)
        channels = x.shape[1]
        draws = task.draw(torch.rand, (self.queries - 1, 7 + channels)).unbind(dim=1)
        for query, draw in enumerate(draws):
            side = max(side_of(share(self.p_init, query, self.queries), clean), 3) // 2 * 2 + 1
            cube, (h, w, d) = _cube(clean, side, _aimed(draw[:, :3], seen, side, clean))
            emptied, _ = _cube(clean, side, draw[:, 3:6])
            axis = (3 * draw[:, 6]).long()[:, None, None, None]
            signs = 2 * draw[:, 7:].round() - 1
            shapes = pairs(tuple(min(side, length) for length in clean.shape[2:])).to(clean)
            pair = shapes[axis, h[:, :, None, None], w[:, None, :, None], d[:, None, None, :]][:, None]
            change = x - clean
            left = (self.eps**2 - rms(change, counted).square()).clamp(min=0) * number / (channels * balls)
            size = (left + _sizes(change * (cube | emptied)).square()).sqrt()
            ahead = pair * signs[:, :, None, None, None] + change / _sizes(change * cube).clamp(min=TINY)
            ahead = size * ahead / _sizes(ahead * cube).clamp(min=TINY)
            ahead = torch.where(cube, ahead, change.masked_fill(emptied, 0)).to(clean)
            ahead = (clean + self.eps * towards(ahead)).clamp(0, 1)
            best.offer(task.look(ahead), ahead)
            (x,) = best.kept
        return x

    def _first(self, task: Task, x: Tensor) -> tuple[Best, Sequence[Tensor] | None]:
        """Asks the first query; returns the best so far, and the voxels `[n, 3]` of each sample at which `aim` aims."""
        best = Best()
        (values, logits) = task.look_closely(x)
        best.offer(values, x)
        if self.aim == "window":
            return best, None
        is_seen = logits[:, 1:] > logits[:, :1] if task.objective.head.has_background else logits > 0
        return best, [each.nonzero() for each in is_seen.any(dim=1)]

    def draw_start(self, task: Task) -> Tensor:
        """Returns stripes, in `l2` a grid of bumps, or the `start` of the call."""
        start = task.given_start()
        if start is None and self.norm == "l2":
            start = self.eps * self.towards(task)(_bumps(task))
        elif start is None:
            channels, _, *space = task.clean.shape[1:]
            start = self.eps * (2 * task.draw(torch.rand, (channels, 1, *space)).round() - 1)
        return start


def _sizes(change: Tensor) -> Tensor:
    """Euclidean norm of each channel, `[B, C, 1, 1, 1]`."""
    return torch.linalg.vector_norm(change, dim=(2, 3, 4), keepdim=True)


def side_of(p: float, like: Tensor) -> int:
    """Returns the side in voxels of a cube with a share p of the voxels of a window `like` `[B, C, H, W, D]`."""
    return max(round((p * like[0, 0].numel()) ** (1 / 3)), 1)


def _aimed(draw: Tensor, seen: Sequence[Tensor] | None, side: int, like: Tensor) -> Tensor:
    """Returns places `[B, 3]` for `_cube` whose middle is a voxel of `seen`, `[n, 3]` of each sample, as far as the
    window allows; as drawn for a sample without one, and without `seen`."""
    if seen is None:
        return draw
    sides = torch.tensor(like.shape[2:], device=like.device)
    room = (sides - side).clamp(min=0)
    places = []
    for own, voxels in zip(draw, seen, strict=True):
        place = own
        if len(voxels):
            middle = voxels[(own[0] * len(voxels)).long()]
            first = (middle - (sides - room) // 2).clamp(min=0).minimum(room)
            place = first.add(0.5) / (room + 1)
        places.append(place)
    return torch.stack(places)


def _cube(like: Tensor, side: int, draw: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Returns a cube's voxels for each sample, `[B, 1, H, W, D]`, and voxels' places in it on each axis, `[B, L]`.

    `draw`, `[B, 3]` in [0, 1), holds its place; places outside it are those of its nearest voxel.
    """
    cube = torch.ones_like(like[:, :1], dtype=torch.bool)
    places: list[Tensor] = []
    for axis, (length, place) in enumerate(zip(like.shape[2:], draw.T, strict=True), start=2):
        extent = min(side, length)
        first = (place * (length - extent + 1)).floor()[:, None]
        index = torch.arange(length, device=place.device)
        inside = (index >= first) & (index < first + extent)  # [B, length]
        shape = [len(inside), 1, 1, 1, 1]
        shape[axis] = length
        cube = cube & inside.reshape(shape)
        places.append((index - first).clamp(0, extent - 1).long())
    return cube, places


def pyramid(sides: Sequence[int]) -> Tensor:
    """Returns a bump of these sides and norm 1: cubes that grow around its centre, the n-th weighing 1 / n^2."""
    distances = torch.meshgrid(*((torch.arange(side) - side // 2).abs() for side in sides), indexing="ij")
    weights = 1 / torch.arange(1.0, max(sides) // 2 + 2).square()
    heights = weights.flip(0).cumsum(0).flip(0)[torch.stack(distances).amax(dim=0)]
    return heights / heights.norm()


@lru_cache(maxsize=4)  # most queries have the side of the one before
def pairs(sides: tuple[int, ...]) -> Tensor:
    """Returns a bump up beside one down, of norm 1 together, split along each axis: `[3, *sides]`."""
    made = []
    for axis, side in enumerate(sides):
        halves = [[*sides[:axis], length, *sides[axis + 1 :]] for length in (side // 2, side - side // 2)]
        pair = torch.cat([pyramid(halves[0]) if side > 1 else torch.empty(halves[0]), -pyramid(halves[1])], dim=axis)
        made.append(pair / pair.norm())
    return torch.stack(made)


def _bumps(task: Task) -> Tensor:
    """Draws a grid of bumps with random signs, `[B, C, H, W, D]`, five on each axis; the rest of a window stays 0."""
    channels, *space = task.clean.shape[1:]
    sides = [max(length // GRID, 1) for length in space]
    counts = [min(length, GRID) for length in space]
    signs = 2 * task.draw(torch.rand, (channels, *counts)).round() - 1
    bumps = torch.zeros_like(task.clean)
    inner = []
    for n, side, count in zip(space, sides, counts, strict=True):
        width = side * count
        start = (n - width) // 2
        inner.append(slice(start, start + width))
    for axis, side in enumerate(sides, start=2):
        signs = signs.repeat_interleave(side, dim=axis)
    bumps[:, :, *inner] = signs * pyramid(sides).repeat(*counts).to(signs)
    return bumps
