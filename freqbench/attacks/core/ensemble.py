"""Runs the members of an ensemble one after the other and keeps the volumes that are worst for the model."""

import math
from abc import abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from freqbench.attacks.apgd import Schedule
from freqbench.attacks.core.attack import LinfAttack
from freqbench.attacks.core.calls import Passes, across
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.inputs import Given
from freqbench.attacks.core.parameters import SCOPES_WITHOUT_JOINT
from freqbench.attacks.core.targets import LEAST_LIKELY
from freqbench.attacks.core.task import Task
from freqbench.core.errors import ParameterError, UserError
from freqbench.ops.heads import Head
from freqbench.ops.losses import FEWEST_CLASSES

A = TypeVar("A", bound=GradientAttack)
SCHEDULE: Schedule = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))
"""The radii of SEA's runs, as factors of eps, and their shares of the steps."""
FEWEST_STEPS = 4  # one for every radius


@dataclass(frozen=True, kw_only=True)
class Ensemble(LinfAttack):
    """Attacks on the same samples in the same ball; each sample keeps the volume with its lowest mean Dice.

    The Dice (`freqbench.ops.losses.mean_dice`, over the foreground or over `organs`) decides between members (the
    first of equal ones) and between the volumes that a member evaluated (the last of equal ones). A member moves as it
    would alone, from the same draw, so with one generator per sample no member alone beats the ensemble on a sample.
    Later members skip a sample whose Dice is 0.

    Args:
        steps: gradient steps of each run.
        organs: class indices, only these classes count in the Dice. None: all.
        restarts: runs of each member that follows a gradient.
        scope: `volume`: a sample is a case, attacked through the model's sliding window, and the Dice is that of its
            prediction as deployed; memory holds one batch of windows and the logits of the volume. `window`: a sample
            is a window, whose Dice says nothing about the Dice of the case.
        warm_start: after the first member, members that draw their start begin at the worst volume so far, so that the
            ensemble continues from its strongest member; not with `restarts`.

    Each member costs one forward pass more than it takes alone, to evaluate its result. The ensemble sets loss, target
    and `keep` itself; the truth judges it, so it refuses `targeted` and a `start`.
    """

    scopes = SCOPES_WITHOUT_JOINT
    may_stop_early: ClassVar[bool] = True
    judged_by_dice: ClassVar[bool] = True
    is_stochastic: ClassVar[bool] = True
    listed: ClassVar[str]  # the parameter that names the members
    threshold: ClassVar[float] = 0.0  # mean Dice at or below which a sample has fallen: later members skip it

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

    @property
    @abstractmethod
    def attacks(self) -> tuple[GradientAttack, ...]:
        """The members in their order."""

    @property
    def passes(self) -> tuple[int, int]:
        """Passes of all members plus one forward pass for each: the cost of a sample that never falls."""
        forwards, backwards = zip(*(attack.passes for attack in self.attacks), strict=True)
        return sum(forwards) + len(forwards), sum(backwards)

    def check_classes(self, num_classes: int) -> None:
        """Checks that there are enough classes for each listed loss and each member."""
        for entry, attack in zip(getattr(self, self.listed), self.attacks, strict=True):
            fewest = FEWEST_CLASSES.get(attack.loss_name, 0)
            if num_classes < fewest:
                complaint = f"expected at least {fewest} classes for {entry}, got {num_classes}: leave it out"
                self.refuse(self.listed, complaint)
        self._check_members(lambda attack: attack.check_classes(num_classes))

    def check_head(self, head: Head) -> None:
        """Checks each member for the `head` of a network."""
        self._check_members(lambda attack: attack.check_head(head))

    def _check_members(self, check: Callable[[GradientAttack], None]) -> None:
        """Checks each member; a ParameterError is the ensemble's own."""
        for attack in self.attacks:
            try:
                check(attack)
            except ParameterError as error:
                raise ParameterError(self.name, error.parameter, error.complaint) from None

    def prepare(self, task: Task) -> None:
        """Refuses a `start`; each member sets its own aim."""
        if task.given.start is not None:
            raise UserError(f"{self.name}: expected no start: its members draw, each in a way of its own")

    def require_steps(self) -> None:
        """Refuses fewer steps than a run with shrinking radii must take."""
        if self.steps < FEWEST_STEPS:
            self.refuse("steps", f"expected at least {FEWEST_STEPS}, so that every radius has one, got {self.steps}")

    def member(self, kind: Callable[..., A], loss: str, **own: Any) -> A:
        """Makes a gradient member; `dlr-targeted` aims for the class of least clean probability at each voxel."""
        target = LEAST_LIKELY if loss == "dlr-targeted" else None
        common = {"eps": self.eps, "steps": self.steps, "organs": self.organs, "restarts": self.restarts}
        return kind(**common, loss=loss, target=target, keep="best", **own)

    def perturb(self, task: Task) -> Tensor:
        """Runs each member on the samples that have not fallen and returns the worst volumes."""
        worst = task.clean.clone()
        task.passes = passes = MembersPasses(in_parts=torch.zeros(len(worst), 2, dtype=torch.long))
        lowest = torch.full((len(worst),), math.inf, dtype=torch.float64, device=worst.device)
        for number, attack in enumerate(self.attacks):
            left = torch.nonzero(lowest > self.threshold).flatten().tolist()
            if left:
                start = (worst - task.clean)[left] if self.warm_start and number > 0 else None
                volumes, dice, member_passes = self._run(attack, task, left, start)
                passes.join(member_passes, left)
                is_worse = dice < lowest[left]
                worst[left] = torch.where(across(is_worse, volumes), volumes, worst[left])
                lowest[left] = torch.where(is_worse, dice, lowest[left])
        for _ in range(len(passes.losses), self.passes[1]):  # for members that had no sample left
            passes.losses.append(task.clean.new_full((len(worst),), math.nan))
        return worst

    def _run(
        self, attack: GradientAttack, task: Task, samples: list[int], start: Tensor | None
    ) -> tuple[Tensor, Tensor, Passes]:
        """Runs a member on some samples, from `start` instead of its draw; returns volumes, mean Dice and passes.

        It repeats the draws of the first member, whatever ran before.
        """
        part = copy(task)
        part.images = task.images[samples]
        part.clean = task.clean[samples]
        part.objective = task.objective.of_samples(samples)
        part.passes = Passes()
        part.draws = task.draws.set_back(samples)
        attack.prepare(part)
        part.given = Given(start=start)
        part.objective.truth = task.objective.labels[samples]
        volumes = attack.perturb(part).detach()
        return volumes, -part.success(volumes), part.passes


@dataclass(kw_only=True)
class MembersPasses(Passes):
    """Passes of members, each of which ran on some of the samples."""

    in_parts: Tensor  # forward and backward passes that each sample took, int64 [B, 2]

    def join(self, passes: Passes, samples: list[int]) -> None:
        """Adds a member's passes and losses; losses are NaN for samples that it did not run on."""
        self.in_parts[samples] += torch.tensor([passes.forwards, passes.backwards])
        for gradient in passes.gradients.stacked():
            self.gradients.append(gradient)
        for values in passes.losses.stacked():
            row = values.new_full((len(self.in_parts),), math.nan)
            row[samples] = values
            self.losses.append(row)

    def of_samples(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the forward and backward passes that each sample took."""
        forwards, backwards = self.in_parts.T.tolist()
        return tuple(forwards), tuple(backwards)
