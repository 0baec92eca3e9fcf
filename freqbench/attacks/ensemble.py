"""What ensembles of attacks share: members one after the other, and of all their volumes the worst for the model."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.base import LinfAttack
from freqbench.attacks.best import across
from freqbench.attacks.gradient import LinfGradientAttack
from freqbench.attacks.parameters import SCOPES
from freqbench.attacks.task import Task
from freqbench.errors import ParameterError, UserError
from freqbench.ops.overlap import mean_dice


@dataclass(frozen=True, kw_only=True)
class Ensemble(LinfAttack):
    """Attacks on the same windows in the same ball; every window keeps the volumes on which its mean Dice is lowest.

    The Dice is that of the predicted classes against the truth, over the foreground or over `organs`
    (`freqbench.ops.overlap.mean_dice`). It decides between members, of equal ones for the first, and which of its
    volumes a member keeps, of equal ones the last; how a member moves is its own affair. All members begin from the
    same draws; with a generator a window, from those that each would have alone. No member that attacked a window is
    stronger there, by that Dice; of the Dice of a case, which is made of many windows, this does not follow.

    Args:
        organs: class indices; as in `freqbench.attacks.gradient`, and the only classes in the Dice. None: everything.
        restarts: runs of every member that follows a gradient.

    With `scope: volume` a sample is a case, and the Dice that decides is the case's own, of its prediction as deployed.
    A member is looked at once more than it looks itself: one forward pass each. Loss, target and `keep` are the
    ensemble's own affair, and the truth is what it is judged by, so that `targeted` is refused, and so is a `start`.
    """

    scopes: ClassVar[tuple[str, ...]] = SCOPES

    organs: tuple[int, ...] | None = None
    restarts: int = 1
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.organs is not None:
            object.__setattr__(self, "organs", tuple(sorted(set(self.organs))))
        if self.targeted:
            complaint = "expected false, got true: members are judged by the Dice against the truth"
            raise ParameterError(self.name, "targeted", complaint)

    @property
    @abstractmethod
    def attacks(self) -> tuple[LinfGradientAttack, ...]:
        """The members in their order."""

    @property
    def enough(self) -> float:
        """A mean Dice below which a window is left alone by the members that follow; 0: all attack all windows."""
        return 0.0

    @property
    def compared_by(self) -> str | None:
        """The loss by which members judge their steps; None: each by its own."""
        return None

    @property
    def passes(self) -> tuple[int, int]:
        """Those of all members, and one forward pass for each."""
        forwards, backwards = zip(*(attack.passes for attack in self.attacks), strict=True)
        return sum(forwards) + len(forwards), sum(backwards)

    @property
    def is_stochastic(self) -> bool:
        """Members draw."""
        return True

    def check_classes(self, num_classes: int) -> None:
        """Enough classes for every member."""
        for attack in self.attacks:
            try:
                attack.check_classes(num_classes)
            except ParameterError as error:
                raise ParameterError(self.name, error.parameter, error.complaint) from None

    def prepare(self, task: Task) -> None:
        """Nothing but a check: every member aims for itself."""
        if task.start is not None:
            raise UserError(f"{self.name}: expected no start: its members draw, each in a way of its own")

    def perturb(self, task: Task) -> Tensor:
        """The members, each on the windows that are left to it, and of their volumes the worst."""
        worst = task.clean.clone()
        lowest = torch.full((len(worst),), math.inf, dtype=torch.float64, device=worst.device)
        for attack in self.attacks:
            left = torch.nonzero(lowest >= self.enough).flatten().tolist()
            if left:
                volumes, dice = self._run(attack, task, left)
                is_worse = dice < lowest[left]
                worst[left] = torch.where(across(is_worse, volumes), volumes, worst[left])
                lowest[left] = torch.where(is_worse, dice, lowest[left])
        missing = self.passes[1] - len(task.losses)
        task.losses += [task.clean.new_full((len(worst),), math.nan)] * missing
        return worst

    def _run(self, attack: LinfGradientAttack, task: Task, samples: list[int]) -> tuple[Tensor, Tensor]:
        """A member's volumes of some samples, and their mean Dice."""
        part, truth = task.part(samples), task.labels[samples]
        attack.prepare(part)
        part.judge(lambda logits: -mean_dice(logits, truth, self.organs), self.compared_by)
        volumes = attack.perturb(part).detach()
        dice = -part.value(volumes)
        task.join(part, samples)
        return volumes, dice
