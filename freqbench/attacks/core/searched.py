"""Defines attacks that search the parameters of a change: tables, k-space, curves of intensity."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.apgd import RULES, Space, search
from freqbench.attacks.core.blocks import Blocks, Change, outside
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import ACQUISITION, PARAMETERS, RANDOM_CONTROL, SCOPES, SEARCH
from freqbench.attacks.core.task import Task
from freqbench.ops.ssim import body_ssim, within_ssim

SSIM_SUFFIX = "-ssim"  # suffix of a threat model that also bounds the SSIM


@dataclass(frozen=True, kw_only=True)
class SearchedAttack(GradientAttack):
    """Projected steps on the parameters that turn a clean volume into an attacked one.

    A point is one setting of these parameters. The search is Auto-PGD's, with `step_rule: cosine` by default
    (`freqbench.attacks.apgd.search`); reports/strongest has the experiments behind the default rule, loss and steps. An
    author writes `space`: the set of points and the function that renders volumes from them; and `beyond`, unless the
    budget is the largest size of every number.

    Args:
        steps: gradient steps; one forward and one backward pass each, plus one forward pass for each of the set's
            `corners`, which a search looks at first, and for the last volume.
        random_start: begin at a uniform draw between the bounds; false: begin halfway between them.
        control: `none`, or a null row instead of the attack, without a gradient; `random`: a random point on the
            boundary of the set.

    An attack with a parameter `ssim_min` also bounds the SSIM of a sample and its clean volume inside the body: points
    shrink towards no change until the SSIM is high enough (`freqbench.ops.ssim.within_ssim`). The threat model's name
    then ends in `-ssim`.

    `start` and `state` are the parameters; the start is projected onto the set.
    """

    parameters = PARAMETERS | SEARCH | ACQUISITION | {"control": RANDOM_CONTROL}
    scopes = SCOPES
    budget_name: ClassVar[str]
    num_corners: ClassVar[int] = 3
    former: ClassVar[int] = 1  # `revision` of searches that no corner and no first step of now change

    steps: int = 20
    random_start: bool = True
    control: str = "none"
    step_rule: str = "cosine"
    loss: str = "auto"
    keep: str = "best"
    scope: str = "joint"

    @abstractmethod
    def space(self, clean: Tensor) -> Space:
        """Returns the set of points to search for `clean` volumes `[B, C, H, W, D]`; computes once what stays constant,
        such as a spectrum."""

    def corners(self, clean: Tensor, space: Space) -> Iterator[Tensor]:
        """Yields no change and both ends of each of the `ways` of a `space` for `clean` volumes: `num_corners` points
        that a search sees first."""
        yield space.project(torch.full_like(space.centre, space.origin))
        for way in self.ways(clean, space):
            yield from (space.project(space.centre + sign * space.radius * way) for sign in (1, -1))

    def ways(self, clean: Tensor, space: Space) -> Iterator[Tensor]:
        """Yields directions of a `space` for `clean` volumes; here all numbers together."""
        yield space.towards(torch.ones_like(space.centre))

    @property
    def revision(self) -> int:  # type: ignore[override]  # of a part of the searches
        """One more than `former` where the lowest volume is kept, also a corner's, or the loss is `auto`."""
        return self.former + (self.keep == "best" or self.loss in RULES)

    @property
    def run_passes(self) -> tuple[int, int]:
        """One of each per step, and a forward pass for each corner where losses decide which volumes are kept."""
        forwards, backwards = super().run_passes
        return forwards + (self.num_corners if self.keep == "best" and backwards else 0), backwards

    def perturb(self, task: Task) -> Tensor:
        """Stores the state of the best point of all runs, or of the null row, and returns its volumes."""
        space = self.searched(task)
        if self.control == "none":
            runs = count()
            (point,) = self.strongest(task, lambda: self.search(task, space, next(runs)), space.render)
        else:
            point = self.null_row(task, space)
        with torch.no_grad():
            task.state = space.state_of(point)
            if space.exact is None:
                return space.render(space.point_of(task.state))
            return space.exact(task.state).to(task.clean)

    def searched(self, task: Task) -> Space:
        """Returns the space that the call of `task` searches; with `ssim_min`, points shrink before they are
        rendered."""
        space = self.space(task.clean)
        ssim_min = getattr(self, "ssim_min", None)
        if ssim_min is None:
            return space
        origin = torch.full_like(space.centre, space.origin)
        move = within_ssim(self.name, task.clean, ssim_min, origin, space.project, space.render)
        return replace(space, render=lambda x: space.render(move(x)), state_of=lambda x: space.state_of(move(x)))

    def search(self, task: Task, space: Space, run: int = 0) -> Tensor:
        """Looks at the corners of a `space`, then runs the search of `task` once, `run` times after its first, and
        returns its last point.

        Every second of several runs starts at the best corner, sample by sample, in place of a draw.
        """
        given = self.given(task, space)
        is_drawn = self.random_start and given is None
        best = task.passes.best
        start = space.centre + space.radius * _draw(task, space) if is_drawn else space.centre
        for corner in self.corners(task.clean, space) if best else ():
            task.look(corner, space.render)
        if best and run % 2:
            (start,) = best.kept
        start = start if given is None else given
        return search(task, space, start, self.steps, self.step_rule, self.loss_name)

    def given(self, task: Task, space: Space) -> Tensor | None:
        """Returns the point in a `space` of the `start` of `task`, or None."""
        return task.given_start(space.centre.shape[1:])

    def null_row(self, task: Task, space: Space) -> Tensor:
        """Returns the point of the null row of `task` in a `space`, without a gradient."""
        return space.project(space.centre + space.radius * space.towards(_draw(task, space)))

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the largest excess: of the state, of `adversarial` volumes over those of the state, of `ssim_min`
        over their SSIM with the `clean` ones."""
        if state is None:
            return float("inf")
        with torch.no_grad():
            excess = max(self.beyond(state), float(torch.dist(self.made(clean, state), adversarial, math.inf)))
        ssim_min: float | None = getattr(self, "ssim_min", None)
        if ssim_min is None:
            return excess
        return max(excess, ssim_min - float(body_ssim(clean)(adversarial).min()))

    def made(self, clean: Tensor, state: Tensor) -> Tensor:
        """Recomputes volumes from `clean` ones and a state, to check those that the search returned."""
        space = self.space(clean)
        return space.render(space.point_of(state))

    def beyond(self, state: Tensor) -> float:
        """Returns how far the largest number of a state exceeds the budget."""
        return float(state.abs().max()) - float(getattr(self, self.budget_name))


@dataclass(frozen=True, kw_only=True)
class BlockSearch(SearchedAttack):
    """A search for one number, within `bounds`, for each coefficient of the DCT of every `block`."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number."""

    def blocks(self, clean: Tensor) -> Blocks:
        """Returns the blocks of `clean` volumes `[B, C, H, W, D]`."""
        block: int | tuple[int, ...] = getattr(self, "block")  # noqa: B009  # a parameter of each attack
        return Blocks.of(clean, block, self.per_slice)

    def given(self, task: Task, space: Space) -> Tensor | None:
        """Returns the point in a `space` of the numbers in the `start` of `task`, or None."""
        numbers = self.blocks(task.clean).given(task, *self.bounds)
        return None if numbers is None else space.point_of(numbers)

    def beyond(self, state: Tensor) -> float:
        """Returns how far the numbers of a `state` leave their bounds."""
        return outside(state, *self.bounds)

    def recomputed(self, clean: Tensor, change: Change, scale: float, middle: float) -> Tensor:
        """Returns `Blocks.recomputed` of `clean` volumes in their shape."""
        volume = self.blocks(clean).recomputed(change, scale, middle)
        h, w, d = clean.shape[2:]
        return volume[:, :, :h, :w, :d]


def _draw(task: Task, space: Space) -> Tensor:
    """Draws uniformly in [-1, 1] in the layout of a point; real and imaginary parts are drawn separately."""
    layout = space.centre.shape[1:]
    if space.centre.is_complex():
        return torch.view_as_complex(2 * task.draw(torch.rand, (*layout, 2)) - 1)
    return 2 * task.draw(torch.rand, layout) - 1


def at_ends(task: Task, space: Space) -> Tensor:
    """Draws the point of a null row of `task` in a `space`: each number at its lower or its upper bound."""
    return space.project(space.centre + space.radius * (2 * task.draw(torch.rand, space.centre.shape[1:]).round() - 1))


def also_ssim(threat_model: str, ssim_min: float | None) -> str:
    """Returns the name of a `threat_model` that also bounds the SSIM, unless `ssim_min` is None."""
    return threat_model if ssim_min is None else threat_model + SSIM_SUFFIX
