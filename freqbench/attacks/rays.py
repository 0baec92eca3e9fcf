"""RayS, a search by decisions alone.  Chen and Gu, KDD 2020, arXiv:2006.12792."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.core.attack import LinfAttack
from freqbench.attacks.core.calls import across
from freqbench.attacks.core.parameters import DECISION, PARAMETERS, SCOPES_WITHOUT_JOINT
from freqbench.attacks.core.task import Task

BISECTIONS = 10
# of the radius
FIRST_STEP = 2**-8
LARGEST_STEP = 1 / 2
GROWTH = 1.5


@dataclass(frozen=True, kw_only=True)
class RayS(LinfAttack):
    r"""Seeks the signs that reach a decision at the smallest radius: is the mean Dice of a sample at most `dice`?

    It learns only this answer from the network: no logit, no loss, no gradient. Over signs s of all voxels it lowers

    .. math:: r(s) = \min \bigl\{ r : \mathrm{Dice}\bigl(f(\mathrm{clamp}(x + r s, 0, 1)), y\bigr) \le dice \bigr\}

    It begins with s = 1, for which ten queries halve the interval [0, 1] of r. Each further query flips the signs of
    one run of voxels, in the order of memory: all, each half, each quarter, ... down to single voxels, and over again.
    It queries the radius (1 - d) r, and keeps flip and radius if the decision is reached there; d is then multiplied by
    1.5, and otherwise divided by the fourth root of 1.5, so that one query in five succeeds. Nothing is drawn.

    Queried volumes may lie outside the ball, but the result does not: it is clean + eps s, which the last query tests.
    If eps undoes a decision that a smaller r had reached, it is clean + r s. A search whose r ends above eps has failed
    by its own measure: the result is its projection onto the ball, and that is scored.

    RayS was chosen because it searches corners of the ball, where strong attacks in the ball end. Boundary Attack
    (Brendel et al., ICLR 2018, arXiv:1712.04248) walks over all intensities, and HopSkipJump (Chen et al., IEEE S&P
    2020, arXiv:1904.02144) estimates a gradient with one number per voxel, from one answer per query.

    Args:
        queries: forward passes, not counting the one for `dice: none`.
        dice: mean Dice (`freqbench.ops.losses.mean_dice`) at or below which a sample has fallen. None: half of the
            clean sample's Dice, for one more forward pass, because networks, cases and windows begin at different Dice.
            If eps is too small to halve it, a higher threshold leads to stronger volumes.
        organs: classes in the Dice. None: the foreground.

    `state`: the smallest radius at which each sample fell, `[B]`; infinite if none was found.

    **Differs from the paper**: the decision is about the Dice, not a class; every query both flips signs and shrinks
    the radius, while the paper queries the current radius and then halves an interval after each success; no run stops
    early.
    """

    name = "rays"
    variants = ("paper",)
    parameters = PARAMETERS | {"dice": DECISION}
    scopes = SCOPES_WITHOUT_JOINT
    judged_by_dice = True

    queries: int = 10_000
    dice: float | None = None
    organs: tuple[int, ...] | None = None
    variant: str = "paper"

    @property
    def passes(self) -> tuple[int, int]:
        """Forward passes: the queries, plus one for the clean Dice if `dice` is None."""
        return self.queries + (self.dice is None), 0

    def prepare(self, task: Task) -> None:
        """Sets the classes in the Dice."""
        task.aim("dice", self.organs, None)

    def perturb(self, task: Task) -> Tensor:
        """Runs the search and returns the volumes of its signs at eps."""
        clean = task.clean
        fallen = task.success(clean) / 2 if self.dice is None else -self.dice

        def along(signs: Tensor, radius: Tensor) -> Tensor:
            return (clean + across(radius, clean) * signs.reshape(clean.shape)).clamp(0, 1)

        def falls(signs: Tensor, radius: Tensor) -> Tensor:
            return task.success(along(signs, radius)) >= fallen

        signs = torch.ones_like(clean).flatten(1)
        radius = clean.new_ones(len(clean))
        low = torch.zeros_like(radius)
        step = torch.full_like(radius, FIRST_STEP)
        for _ in range(min(BISECTIONS, self.queries - 1)):
            middle = (low + radius) / 2
            fell = falls(signs, middle)
            low = torch.where(fell, low, middle)
            radius = torch.where(fell, middle, radius)
        for query in range(self.queries - 1 - BISECTIONS):
            turned = _turned(signs, query)
            smaller = (1 - step) * radius
            fell = falls(turned, smaller)
            signs = torch.where(across(fell, signs), turned, signs)
            radius = torch.where(fell, smaller, radius)
            step = torch.where(fell, GROWTH * step, GROWTH**-0.25 * step).clamp(max=LARGEST_STEP)
        edge = torch.full_like(radius, self.eps)
        fell = falls(signs, edge)
        task.state = torch.where(radius < 1, radius, math.inf)
        return along(signs, torch.where(fell, edge, radius.clamp(max=self.eps)))


def _turned(signs: Tensor, query: int) -> Tensor:
    """Flips one run of signs `[B, N]`: all, the first half, the second, the first quarter, ..., the last voxel."""
    length = signs.shape[1]
    finest = math.ceil(math.log2(length))
    number = query % (2 ** (finest + 1) - 1) + 1
    level = number.bit_length() - 1
    part = number - 2**level
    turned = signs.clone()
    turned[:, part * length >> level : (part + 1) * length >> level] *= -1
    return turned
