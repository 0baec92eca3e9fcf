"""Adds what attacks that follow a gradient share: loss, organs, target rule, restarts, the best iterate."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, final

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
    """An attack that knows which voxels count and where they are to go.

    Args:
        organs: class indices; only voxels whose true label is one of them count. None: everything counts.
        target: the labels to move towards, made from the truth, which `labels` then are: `least-likely`, the class of
            least clean probability at each voxel, for one forward pass more; `next-class`, (label + 1) mod K; `("swap",
            a, b)`, each where the other is; `("erase", a)`, background where a is. The last two keep other labels, so
            that they pull towards the truth where neither class is. None: away from the truth.
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
        self.require_together("organs", self.organs, self.target)

    def check_classes(self, num_classes: int) -> None:
        """No class is named beyond the last."""
        for parameter, highest in (("organs", max(self.organs or (0,))), ("target", highest_class(self.target))):
            if highest >= num_classes:
                self.refuse(parameter, f"expected classes in 0..{num_classes - 1}, got {highest}")


@dataclass(frozen=True, kw_only=True)
class GradientAttack(AimedAttack):
    """An attack that raises a loss by its gradient.

    Args:
        loss: a name of `freqbench.ops.losses.LOSSES`.
        organs: every sum of the loss over voxels is over those of these classes alone, whatever the rest of the volume
            is predicted as, and the Dice is the mean over these classes (towards a target: over all, as the target's
            classes are others). A window without any such voxel has no gradient.
        restarts: as many runs, each from a further draw of the sample's own generator. Of their volumes a sample keeps
            those of the lowest mean Dice, of `organs` alone where they are given (`freqbench.ops.overlap.mean_dice`);
            towards a target those of the highest loss.
        keep: `last`: a run ends with its last volumes; `best`: with those of its volumes that have the highest loss,
            sample by sample, the last ones among them.

    Volumes of a run are compared by what the attack raises; for masked losses, which fall when voxels turn wrong, by
    the cross-entropy (`freqbench.ops.losses.COMPARED_BY`). To compare costs one forward pass a run where the loss of
    its last volumes is not known otherwise, and to choose between runs one each. A null row ignores these parameters.
    """

    loss: str | None = "dicece"
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
        """Of a null row the defaults of all that it ignores."""
        values = super().spelled()
        if self.run_passes == (0, 0):
            ignored = (*AimedAttack.__annotations__, *GradientAttack.__annotations__)
            values |= {field.name: field.default for field in fields(self) if field.name in ignored}
        return values

    @property
    def identity_revision(self) -> int:
        """One more with restarts: runs were once chosen by their loss; rows of a single run are as they were."""
        return self.revision + (self.restarts > 1)

    @property
    def loss_name(self) -> str:
        """The loss by its name in `LOSSES`."""
        return self.loss or "dicece"

    @property
    def run_passes(self) -> tuple[int, int]:
        """Forward and backward passes of a run, before it compares: one of each a step, none for a null row."""
        count = getattr(self, "steps", 1) if getattr(self, "control", "none") == "none" else 0
        return count, count

    @property
    def compares(self) -> bool:
        """Whether the losses of a run's volumes decide which are kept."""
        return self.keep == "best" and self.run_passes != (0, 0)

    @property
    def passes_to_compare(self) -> int:
        """Forward passes that it takes to know the loss of a run's last volumes."""
        return 1

    @property
    def passes(self) -> tuple[int, int]:
        """Those of every run, and what restarts, the best iterate and the target rule add."""
        forwards, backwards = self.run_passes
        compared = self.passes_to_compare if self.compares else 0
        chosen = 1 if self.restarts > 1 else 0
        clean = 1 if self.target == LEAST_LIKELY else 0
        return self.restarts * (forwards + compared + chosen) + clean, self.restarts * backwards

    def check_classes(self, num_classes: int) -> None:
        """Enough classes for the loss, and none named beyond the last."""
        fewest = FEWEST_CLASSES.get(self.loss_name, 0)
        if num_classes < fewest:
            self.refuse("loss", f"expected at least {fewest} classes for {self.loss_name}, got {num_classes}: use ce")
        super().check_classes(num_classes)

    def prepare(self, task: Task) -> None:
        """Loss, organs and target rule."""
        if self.restarts > 1 and task.given.start is not None:
            raise UserError(f"{self.name}: expected no start with restarts = {self.restarts}: it replaces one draw")
        task.aim(self.loss_name, self.organs, self.target)

    def run_to_best(self, task: Task, run: Callable[[], Tensor], render: Callable[[Tensor], Tensor]) -> Tensor:
        """The last point of a run, or with `keep: best` the best one; of several runs that of the strongest.

        `run` is the iteration, once, to its last point; `render` makes the volumes of a point. While `passes.best` is
        set, gradients offer the points that they are taken at.
        """

        def once() -> tuple[Tensor]:
            if not self.compares:
                return (run(),)
            best = task.passes.best = Best(by_success=task.objective.truth is not None)
            x = run()
            task.look(x, render)
            (kept,) = best.kept
            return (kept,)

        (x,) = self.strongest(task, once, render)
        return x

    def strongest(
        self, task: Task, run: Callable[[], tuple[Tensor, ...]], render: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """What a run ends with, volumes to `render` first; of several, sample by sample, the strongest's."""
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

    scopes: ClassVar[tuple[str, ...]] = SCOPES

    @abstractmethod
    def run(self, task: Task) -> Tensor:
        """One run to its last volumes. Where volumes are compared, `task.gradient` offers those that it looks at."""

    @final
    def perturb(self, task: Task) -> Tensor:
        """The run, or of several and their iterates the best."""
        if self.restarts == 1 and not self.compares:
            return self.run(task)
        return self.run_to_best(task, partial(self.run, task), lambda x: x)

    def draw_start(self, task: Task) -> Tensor:
        """Uniform noise in [-eps, eps], or the one that was given."""
        start = task.given_start()
        return self.eps * (2 * task.draw(torch.rand) - 1) if start is None else start
