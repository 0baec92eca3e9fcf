"""Adds the parts that gradient attacks share: loss, organs, target rule, restarts, the best iterate."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from freqbench.attacks.core.base import Attack, LinfAttack
from freqbench.attacks.core.best import Best
from freqbench.attacks.core.parameters import SCOPES
from freqbench.attacks.core.targets import LEAST_LIKELY, Rule, highest_class
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.losses import COMPARED_BY, FEWEST_CLASSES


@dataclass(frozen=True, kw_only=True)
class AimedAttack(Attack):
    """An attack with a choice of voxels that count and of labels to move towards.

    Args:
        organs: class indices; only voxels whose true label is one of them count. None: everything counts.
        target: rule for the labels to move towards, made from the truth (`labels` are then the truth): `least-likely`,
            the class of least clean probability at each voxel, for one more forward pass; `next-class`, (label + 1) mod
            K; `("swap", a, b)`, each class in place of the other; `("erase", a)`, background in place of a. The last
            two keep all other labels, so they pull towards the truth where neither class is. None: away from the truth.
    """

    organs: tuple[int, ...] | None = None
    target: Rule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targeted and self.target is not None:
            complaint = "expected false beside a target rule, got true: with a rule the labels are the truth"
            self.refuse("targeted", complaint)
        if self.targeted and self.organs is not None:
            complaint = "expected false beside organs, got true: these are found by the truth: use a target rule"
            self.refuse("targeted", complaint)

    @property
    def is_stochastic(self) -> bool:
        """True if the null row is drawn or, without a null row, the start; `uniform` draws nothing."""
        control = getattr(self, "control", "none")
        return control == "random" or (control == "none" and getattr(self, "random_start", False))

    def check_classes(self, num_classes: int) -> None:
        """Checks that `organs` and `target` name no class beyond the last."""
        for parameter, highest in (("organs", max(self.organs or (0,))), ("target", highest_class(self.target))):
            if highest >= num_classes:
                self.refuse(parameter, f"expected classes in 0..{num_classes - 1}, got {highest}")


@dataclass(frozen=True, kw_only=True)
class GradientAttack(AimedAttack):
    """An attack that raises a loss by its gradient.

    Args:
        loss: a name of `freqbench.ops.losses.LOSSES`.
        organs: only voxels of these classes enter the sums of the loss, whatever is predicted elsewhere, and the Dice
            is the mean over these classes (towards a target: over all, because the target has other classes). A window
            without such a voxel has no gradient.
        restarts: number of runs, each from another draw of the sample's own generator. Each sample keeps the volume of
            the lowest mean Dice, over `organs` if they are given (`freqbench.ops.losses.mean_dice`); towards a target,
            the volume of the highest loss.
        keep: `last`: a run returns its last volumes; `best`: for each sample, the volume of the run with the highest
            loss, the last one included.

    Volumes of a run are compared by the loss that the attack raises, except for masked losses, which fall when voxels
    turn wrong: those are replaced by the cross-entropy (`freqbench.ops.losses.COMPARED_BY`). A comparison costs one
    forward pass per run if the loss of its last volumes is not known otherwise; a choice between runs costs one per
    run. A null row ignores these parameters.
    """

    loss: str = "dicece"
    restarts: int = 1
    keep: str = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.is_stochastic:
            self.refuse("restarts", f"expected 1, got {self.restarts}: without a random draw every run is the same")
        if self.loss_name == "dlr-targeted" and self.target is None:
            self.refuse("loss", "expected a target rule beside dlr-targeted, as it weighs the target against the truth")
        if self.targeted and self.loss_name in COMPARED_BY:
            expected = "expected a loss without a mask beside targeted"
            self.refuse("loss", f"{expected}, got {self.loss_name!r}: use a target rule, or ce")

    def spelled(self) -> dict[str, Any]:
        """Canonical values; a null row has the default of every parameter that it ignores."""
        values = super().spelled()
        if self.run_passes == (0, 0):
            ignored = (*AimedAttack.__annotations__, *GradientAttack.__annotations__, "step_rule")
            values |= {field.name: field.default for field in fields(self) if field.name in ignored}
        return values

    @property
    def identity_revision(self) -> int:
        """Revision, plus one with restarts, which were once chosen by their loss, and one with `race`, whose candidates
        were once others; the rest did not change."""
        return self.revision + (self.restarts > 1) + (self.loss == "race")

    @property
    def loss_name(self) -> str:
        """Name of the loss in `LOSSES`."""
        return self.loss or "dicece"

    @property
    def way(self) -> tuple[int, str, str]:
        """Steps, rule and loss of `freqbench.attacks.apgd.search`, for attacks with a `step_rule`."""
        return self.steps, self.step_rule, self.loss_name  # type: ignore[attr-defined]

    @property
    def run_passes(self) -> tuple[int, int]:
        """Forward and backward passes of a run without comparisons: one of each per step, none for a null row."""
        count = getattr(self, "steps", 1) if getattr(self, "control", "none") == "none" else 0
        return count, count

    @property
    def compares(self) -> bool:
        """True if the losses of a run's volumes decide which to keep."""
        return self.keep == "best" and self.run_passes != (0, 0)

    @property
    def passes_to_compare(self) -> int:
        """Forward passes needed for the loss of a run's last volumes."""
        return 1

    @property
    def passes(self) -> tuple[int, int]:
        """Passes of all runs, plus those for restarts, the best iterate and the target rule."""
        forwards, backwards = self.run_passes
        compared = self.passes_to_compare if self.compares else 0
        chosen = 1 if self.restarts > 1 else 0
        clean = 1 if self.target == LEAST_LIKELY else 0
        return self.restarts * (forwards + compared + chosen) + clean, self.restarts * backwards

    def check_classes(self, num_classes: int) -> None:
        """Checks that there are enough classes for the loss and that none beyond the last is named."""
        fewest = FEWEST_CLASSES.get(self.loss_name, 0)
        if num_classes < fewest:
            self.refuse("loss", f"expected at least {fewest} classes for {self.loss_name}, got {num_classes}: use ce")
        super().check_classes(num_classes)

    def prepare(self, task: Task) -> None:
        """Sets loss, organs and target rule of the task."""
        if self.restarts > 1 and task.given.start is not None:
            raise UserError(f"{self.name}: expected no start with restarts = {self.restarts}: it replaces one draw")
        task.aim(self.loss_name, self.organs, self.target)

    def run_to_best(self, task: Task, run: Callable[[], Tensor], render: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns the last point of a run, or with `keep: best` the best; with restarts, the strongest run's.

        `run` does the iteration once and returns its last point; `render` makes the volumes of a point. While
        `passes.best` is set, each gradient offers the point that it is taken at.
        """

        def once() -> tuple[Tensor]:
            if not self.compares:
                return (run(),)
            best = task.passes.best = Best(by_success=task.objective.judges_by_success)
            x = run()
            task.look(x, render)
            (kept,) = best.kept
            return (kept,)

        (x,) = self.strongest(task, once, render)
        return x

    def strongest(
        self, task: Task, run: Callable[[], tuple[Tensor, ...]], render: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """Returns a run's tensors, those that `render` takes first; with restarts, each sample's strongest run's."""
        if self.restarts == 1:
            return run()
        best = Best()
        for _ in range(self.restarts):
            tensors = run()
            task.passes.best = None
            best.offer(task.success(render(tensors[0])), *tensors)
        return best.kept


@dataclass(frozen=True, kw_only=True)
class LinfGradientAttack(GradientAttack, LinfAttack):
    """A gradient attack whose iterates are volumes inside `{ x : |x - clean| <= eps, 0 <= x <= 1 }`.

    An author writes `run`, the paper's iteration, with `task.gradient` at its iterates.
    """

    scopes = SCOPES

    @abstractmethod
    def run(self, task: Task) -> Tensor:
        """Runs once and returns the last volumes. `task.gradient` offers those to compare."""

    @final
    def perturb(self, task: Task) -> Tensor:
        """Returns the result of `run`, or the best of several runs and their iterates."""
        if self.restarts == 1 and not self.compares:
            return self.run(task)
        return self.run_to_best(task, partial(self.run, task), lambda x: x)

    def draw_start(self, task: Task) -> Tensor:
        """Returns uniform noise in [-eps, eps], or the `start` of the call."""
        start = task.given_start()
        return self.eps * (2 * task.draw(torch.rand) - 1) if start is None else start
