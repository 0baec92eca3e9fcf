"""Defines attacks by a gradient: loss, organs, target rule, restarts, the best volumes of a run."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.calls import Best
from freqbench.attacks.core.targets import LEAST_LIKELY, Rule
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.heads import Head
from freqbench.ops.losses import COMPARED_BY, FEWEST_CLASSES, SEQUENCES


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack that raises a loss by its gradient.

    An author writes `run`: the paper's iteration, which calls `task.gradient`. An attack in the L-infinity ball also
    extends `LinfAttack`.

    Args:
        loss: a name of `freqbench.ops.losses.LOSSES`. Attacks with the default None take the Dice loss in `paper` and
            otherwise Dice + cross-entropy.
        organs: classes that count; None: all. Only voxels with these labels enter the sums of the loss, and the Dice is
            the mean over these classes (towards a target over all, because the target has other classes). A window
            without such a voxel has no gradient.
        target: rule that makes the labels to move towards from the truth, `labels`; None: move away from the truth.
            `least-likely`: the class of least clean probability at each voxel, at the cost of one forward pass;
            `next-class`: (label + 1) mod K; `("swap", a, b)`: each class in place of the other; `("erase", a)`:
            background in place of a. `swap` and `erase` keep all other labels, so there the attack lowers the loss of
            the truth.
        restarts: number of runs; each makes new draws. Each sample keeps the run whose volume has the lowest mean Dice,
            over `organs` if they are given (`freqbench.ops.losses.mean_dice`); towards a target, the highest loss.
        keep: `last`: a run returns its last volumes; `best`: of all volumes of a run, the last included, it returns
            each sample's volume of the highest loss.

    The loss that the attack raises compares the volumes of a run. Masked losses fall when voxels turn wrong, so the
    cross-entropy replaces them there (`freqbench.ops.losses.COMPARED_BY`). `keep: best` costs one forward pass per run,
    for the loss of the last volumes, unless the attack knows it already; restarts cost one more per run. A null row
    ignores these parameters.

    Class attributes of an attack:
        keeps_best: true if the attack's `run` does what `keep: best` asks for.
        looks_apart: true if a step's gradient is taken at other volumes than its own, so that with `keep: best` each
            step's volumes cost one more forward pass.
    """

    keeps_best: ClassVar[bool] = False
    looks_apart: ClassVar[bool] = False

    organs: tuple[int, ...] | None = None
    target: Rule | None = None
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
        """Returns the canonical values; parameters that a null row ignores have their default."""
        values = super().spelled()
        if type(self).loss is None and values["loss"] == self._loss_of_variant:
            values["loss"] = None
        if self.run_passes == (0, 0):
            ignored = (*GradientAttack.__annotations__, "step_rule")
            values |= {field.name: field.default for field in fields(self) if field.name in ignored}
        return values

    def run(self, task: Task) -> Tensor | tuple[Tensor, Tensor]:
        """Runs once and returns the last volumes, alone or with their state; `task.gradient` keeps the best.

        An author writes this method, or `perturb` in its place.
        """
        raise NotImplementedError(f"{self.name}: expected the method run, or perturb, got neither: write one")

    def perturb(self, task: Task) -> Tensor:
        """Returns the volumes of `run`, or those that `keep` and `restarts` select; stores their state, if any."""
        volumes, *state = self.strongest(task, partial(self.run, task))
        if state:
            (task.state,) = state
        return volumes

    def strongest(
        self,
        task: Task,
        run: Callable[[], Tensor | tuple[Tensor, ...]],
        render: Callable[[Tensor], Tensor] = lambda volumes: volumes,
    ) -> tuple[Tensor, ...]:
        """Returns the tensors of each sample's strongest run: its last point or, with `keep: best`, its best one.

        `run` does the iteration once and returns its last points, with their state if there is one; `render` makes
        volumes from points. While `passes.best` is set, each gradient offers its points to it.
        """
        of_runs = Best()
        for _ in range(self.restarts):
            if self.compares and not self.keeps_best:
                best = task.passes.best = Best(by_success=task.objective.judges_by_success)
                task.look(_each(run())[0], render)
                tensors = best.kept
                task.passes.best = None
            else:
                tensors = _each(run())
            if self.restarts == 1:
                return tensors
            of_runs.offer(task.success(render(tensors[0])), *tensors)
        return of_runs.kept

    @property
    def is_stochastic(self) -> bool:
        """True if the start or the null row is drawn; the null row `uniform` draws nothing."""
        control = getattr(self, "control", "none")
        return control == "random" or (control == "none" and getattr(self, "random_start", False))

    @property
    def loss_name(self) -> str:
        """Name of the loss in `LOSSES`: `loss`, or that of the variant."""
        return self.loss or self._loss_of_variant

    @property
    def _loss_of_variant(self) -> str:
        return "dice" if self.variant == "paper" else "dicece"

    @property
    def run_passes(self) -> tuple[int, int]:
        """Forward and backward passes of a run without its end: one of each per step, none for a null row."""
        count = getattr(self, "steps", 1) if getattr(self, "control", "none") == "none" else 0
        return count * (2 if self.looks_apart and self.keep == "best" else 1), count

    @property
    def compares(self) -> bool:
        """True if the losses of a run's volumes decide which to keep."""
        return self.keep == "best" and self.run_passes != (0, 0)

    @property
    def passes(self) -> tuple[int, int]:
        """Passes of all runs, plus those for restarts, the best volumes and the target rule."""
        forwards, backwards = self.run_passes
        compared = 1 if self.compares and not self.keeps_best else 0
        chosen = 1 if self.restarts > 1 else 0
        clean = 1 if self.target == LEAST_LIKELY else 0
        return self.restarts * (forwards + compared + chosen) + clean, self.restarts * backwards

    def check_classes(self, num_classes: int) -> None:
        """Checks also that there are enough classes for the loss."""
        fewest = FEWEST_CLASSES.get(self.loss_name, 0)
        if num_classes < fewest:
            self.refuse("loss", f"expected at least {fewest} classes for {self.loss_name}, got {num_classes}: use ce")
        super().check_classes(num_classes)

    def check_head(self, head: Head) -> None:
        """Checks also that the loss has a form for regions."""
        self.check_loss(head, SEQUENCES.get(self.loss_name, self.loss_name))
        super().check_head(head)

    def prepare(self, task: Task) -> None:
        """Sets loss, organs and target rule of the task."""
        if self.restarts > 1 and task.given.start is not None:
            raise UserError(f"{self.name}: expected no start with restarts = {self.restarts}: it replaces one draw")
        task.aim(self.loss_name, self.organs, self.target)


def _each(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
