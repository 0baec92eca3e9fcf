"""Attacks whose search starts elsewhere: at the best of eight null rows, or again at its end with the Dice as loss.

They were compared with two losses of one start in README.md, by the job second_starts.yaml beside this file.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from freqbench.attacks.apgd import APGD, Space, search
from freqbench.attacks.bias_field import BiasField
from freqbench.attacks.core.calls import Best
from freqbench.attacks.core.task import Task
from freqbench.attacks.kspace import KSpace
from freqbench.attacks.sa2_opt import SA2Opt
from freqbench.attacks.vafa_opt import VAFAOpt

NULL_ROWS = 8


def best_null_row(task: Task, draw: Callable[[], Tensor], render: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns each sample's null row of the lowest Dice."""
    best = Best()
    for _ in range(NULL_ROWS):
        row = draw()
        best.offer(task.success(render(row)), row)
    return best.kept[0]


class FromNullRow:
    """A search that starts at the best of eight null rows, at the cost of eight forward passes."""

    @property
    def run_passes(self) -> tuple[int, int]:
        """Passes of a run."""
        return self.steps + NULL_ROWS, self.steps

    def search(self, task: Task, space: Space) -> Tensor:
        """Runs the search once and returns its last point."""
        control = replace(self, control="random")
        start = best_null_row(task, lambda: control.null_row(task, space), space.render)
        return search(task, space, start, self.steps, self.step_rule, self.loss_name)


class ThenDice:
    """A search that goes on from its last point with as many steps, of the Dice."""

    @property
    def run_passes(self) -> tuple[int, int]:
        """Passes of a run."""
        return 2 * self.steps, 2 * self.steps

    def search(self, task: Task, space: Space) -> Tensor:
        """Runs both searches and returns the last point."""
        return search(task, space, super().search(task, space), self.steps, self.step_rule, "dice")


class APGDFromNullRow(FromNullRow, APGD):
    """`apgd` from the best of eight random corners of its ball, in L2 of eight directions."""

    name = "apgd_from_row"

    def run(self, task: Task) -> Tensor:
        """Runs the algorithm once."""
        towards, project = self.towards(task), self.projection(task)

        def draw() -> Tensor:
            return project(task.clean + self.eps * towards(task.draw(torch.randn)))

        return self._climb(task, best_null_row(task, draw, lambda x: x), self.eps, self.steps)


class APGDThenDice(ThenDice, APGD):
    """`apgd` that goes on from its last volume with as many steps, of the Dice."""

    name = "apgd_then_dice"

    def run(self, task: Task) -> Tensor:
        """Runs both searches and returns the last volume."""
        x, project = super().run(task), self.projection(task)
        ball = Space(task.clean, radius=x.new_full((), self.eps), project=project, towards=self.towards(task))
        return search(task, ball, x, self.steps, self.step_rule, "dice")


class VAFAFromNullRow(FromNullRow, VAFAOpt):
    """`vafa_opt` from a null row."""

    name = "vafa_opt_from_row"


class VAFAThenDice(ThenDice, VAFAOpt):
    """`vafa_opt` and then the Dice."""

    name = "vafa_opt_then_dice"


class SA2FromNullRow(FromNullRow, SA2Opt):
    """`sa2_opt` from a null row."""

    name = "sa2_opt_from_row"


class SA2ThenDice(ThenDice, SA2Opt):
    """`sa2_opt` and then the Dice."""

    name = "sa2_opt_then_dice"


class BiasFieldFromNullRow(FromNullRow, BiasField):
    """`bias_field` from a null row."""

    name = "bias_field_from_row"


class BiasFieldThenDice(ThenDice, BiasField):
    """`bias_field` and then the Dice."""

    name = "bias_field_then_dice"


class KSpaceFromNullRow(FromNullRow, KSpace):
    """`kspace` from a null row."""

    name = "kspace_from_row"


class KSpaceThenDice(ThenDice, KSpace):
    """`kspace` and then the Dice."""

    name = "kspace_then_dice"
