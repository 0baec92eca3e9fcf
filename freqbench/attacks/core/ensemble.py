"""Runs members one after the other, as ensembles do, and keeps of all their volumes the worst for the model."""

import math
from abc import abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from freqbench.attacks.apgd import Schedule
from freqbench.attacks.core.base import LinfAttack
from freqbench.attacks.core.best import across
from freqbench.attacks.core.gradient import LinfGradientAttack
from freqbench.attacks.core.inputs import Given
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.parameters import SCOPES
from freqbench.attacks.core.passes import Passes
from freqbench.attacks.core.targets import LEAST_LIKELY
from freqbench.attacks.core.task import Task
from freqbench.core.errors import ParameterError, UserError
from freqbench.ops.losses import FEWEST_CLASSES

A = TypeVar("A", bound=LinfGradientAttack)
SCHEDULE: Schedule = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))
"""The radii of SEA's runs, as factors of eps, and their shares of the steps."""
FEWEST_STEPS = 4  # one for every radius


@dataclass(frozen=True, kw_only=True)
class Ensemble(LinfAttack):
    """Attacks on the same samples in the same ball; every sample keeps the volumes on which its mean Dice is lowest.

    The Dice (`freqbench.ops.overlap.mean_dice`, over the foreground or over `organs`) decides between members, of equal
    ones for the first, and which of the volumes that a member looked at count, of equal ones the last. A member moves
    as it does alone, from the draw that it would have alone, so that with a generator a sample no member is stronger on
    a sample by itself. A sample without any Dice left is left alone by the members that follow.

    Args:
        steps: gradient steps of each run.
        organs: class indices, as in `AimedAttack`, and the only classes in the Dice. None: everything.
        restarts: runs of every member that follows a gradient.
        scope: `volume`: a sample is a case, attacked through the model's sliding window, and the Dice is that of its
            prediction as deployed; memory holds one batch of windows, and the logits of the volume. `window`: a sample
            is a window, whose Dice says nothing of the case's.
        warm_start: members that draw where they begin follow the first from the worst volume so far in place of their
            own draw, so that the ensemble goes on from its strongest member; not with `restarts`.

    A member is looked at once more than it looks itself: one forward pass each. Loss, target and `keep` are the
    ensemble's own affair; it is judged by the truth, and refuses `targeted` and a `start`.
    """

    scopes: ClassVar[tuple[str, ...]] = SCOPES
    may_stop_early: ClassVar[bool] = True
    is_stochastic: ClassVar[bool] = True
    listed: ClassVar[str]  # the parameter that names the members
    threshold: ClassVar[float] = 0.0
    """The mean Dice at which a sample has fallen, or below: members that follow leave it alone."""

    steps: int = 100
    organs: tuple[int, ...] | None = None
    restarts: int = 1
    variant: str = "paper"
    scope: str = "volume"
    warm_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_start and self.restarts > 1:
            self.refuse("warm_start", f"expected false with restarts = {self.restarts}, got true: runs would be one")
        if self.targeted:
            self.refuse("targeted", "expected false, got true: members are judged by the Dice against the truth")

    @property
    @abstractmethod
    def attacks(self) -> tuple[LinfGradientAttack, ...]:
        """The members in their order."""

    @property
    def passes(self) -> tuple[int, int]:
        """Those of all members, and one forward pass for each: what a sample takes that never falls."""
        forwards, backwards = zip(*(attack.passes for attack in self.attacks), strict=True)
        return sum(forwards) + len(forwards), sum(backwards)

    def check_classes(self, num_classes: int) -> None:
        """Enough classes for the losses that are listed, and for every member."""
        for entry, attack in zip(getattr(self, self.listed), self.attacks, strict=True):
            fewest = FEWEST_CLASSES.get(attack.loss_name, 0)
            if num_classes < fewest:
                complaint = f"expected at least {fewest} classes for {entry}, got {num_classes}: leave it out"
                self.refuse(self.listed, complaint)
        for attack in self.attacks:
            try:
                attack.check_classes(num_classes)
            except ParameterError as error:
                raise ParameterError(self.name, error.parameter, error.complaint) from None

    def prepare(self, task: Task) -> None:
        """Nothing but a check: every member aims for itself."""
        if task.given.start is not None:
            raise UserError(f"{self.name}: expected no start: its members draw, each in a way of its own")

    def require_steps(self) -> None:
        """Refuse fewer steps than runs with a radius that shrinks have to take."""
        if self.steps < FEWEST_STEPS:
            self.refuse("steps", f"expected at least {FEWEST_STEPS}, so that every radius has one, got {self.steps}")

    def member(self, kind: Callable[..., A], loss: str, **own: Any) -> A:
        """A member by gradients; `dlr-targeted` aims for the class of least clean probability at each voxel."""
        target = LEAST_LIKELY if loss == "dlr-targeted" else None
        common = {"eps": self.eps, "steps": self.steps, "organs": self.organs, "restarts": self.restarts}
        return kind(**common, loss=loss, target=target, keep="best", **own)

    def perturb(self, task: Task) -> Tensor:
        """The members, each on the samples that are left to it, and of their volumes the worst."""
        worst = task.clean.clone()
        task.passes = passes = MembersPasses(in_parts=torch.zeros(len(worst), 2, dtype=torch.long))
        lowest = torch.full((len(worst),), math.inf, dtype=torch.float64, device=worst.device)
        for number, attack in enumerate(self.attacks):
            left = torch.nonzero(lowest > self.threshold).flatten().tolist()
            if left:
                start = (worst - task.clean)[left] if self.warm_start and number > 0 else None
                volumes, dice, own = self._run(attack, task, left, start)
                passes.join(own, left)
                is_worse = dice < lowest[left]
                worst[left] = torch.where(across(is_worse, volumes), volumes, worst[left])
                lowest[left] = torch.where(is_worse, dice, lowest[left])
        for _ in range(len(passes.losses), self.passes[1]):  # of members that had no sample left
            passes.losses.append(task.clean.new_full((len(worst),), math.nan))
        return worst

    def _run(
        self, attack: LinfGradientAttack, task: Task, samples: list[int], start: Tensor | None
    ) -> tuple[Tensor, Tensor, Passes]:
        """A member's volumes of some samples, from `start` where it draws one, their mean Dice, and its passes."""
        part = _part(task, samples)
        attack.prepare(part)
        part.given = Given(start=start)
        part.objective.truth = task.objective.labels[samples]
        volumes = attack.perturb(part).detach()
        return volumes, -part.success(volumes), part.passes


def _part(task: Task, samples: list[int]) -> Task:
    """Some samples as a task of their own, which draws what the first member drew, whatever went before it."""
    part = copy(task)
    part.images, part.clean = task.images[samples], task.clean[samples]
    part.objective = Objective(labels=task.objective.labels[samples])
    part.passes, part.draws = Passes(), task.draws.set_back(samples)
    return part


@dataclass(kw_only=True)
class MembersPasses(Passes):
    """Passes of members, each on some of the samples."""

    in_parts: Tensor  # forward and backward passes that each sample took, int64 [B, 2]

    def join(self, passes: Passes, samples: list[int]) -> None:
        """Count those of a member, and take over its losses: NaN for samples that were not in it."""
        self.in_parts[samples] += torch.tensor([passes.forwards, passes.backwards])
        for flags in passes.gradients.stacked():
            self.gradients.append(flags)
        for values in passes.losses.stacked():
            row = values.new_full((len(self.in_parts),), math.nan)
            row[samples] = values
            self.losses.append(row)

    def of_samples(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those that each sample took."""
        forwards, backwards = self.in_parts.T.tolist()
        return tuple(forwards), tuple(backwards)
