"""What VAFA and SA2 share: a table over the DCT of blocks, moved by unit signs, and the null rows that go with it."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from freqbench.attacks.base import Attack
from freqbench.attacks.task import Task
from freqbench.errors import UserError
from freqbench.ops.blocks import Block, blocked_shape, cut_block, merge, pad_to_blocks, split
from freqbench.ops.losses import dice, dice_ce

Render = Callable[[Tensor, int], Tensor]
Distance = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class FrequencyAttack(Attack):
    """An attack that learns one number a DCT coefficient of every block: a quantisation step or a multiplier.

    The state is kept in voxel layout, coefficient (i, j, k) of a block standing where its voxel stood, over the window
    padded to whole blocks; starts come in, and the final state goes out, in blocked layout `[B, 1, N, h, w, d]`.

    Args:
        steps: gradient steps; one forward and one backward pass each.
        block: side of the DCT block in voxels, or three; cut to the window where it is longer.
        ssim_weight: weight of the SSIM loss that is held against the task loss; 0 leaves it out.
        control: `none`, or a null row in place of the attack: same volumes, no gradient.
    """

    steps: int = 20
    block: int | tuple[int, int, int] = 32
    ssim_weight: float = 1.0
    control: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.block, int):
            # One spelling of a block, as attacks are told apart by their parameters.
            sides = tuple(self.block)
            object.__setattr__(self, "block", sides[0] if len(set(sides)) == 1 else sides)

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value of the state."""

    @abstractmethod
    def step(self, state: Tensor, direction: Tensor) -> Tensor:
        """The state after one step.

        Args:
            state: any layout.
            direction: the sign of the raised objective's gradient, in the same layout.
        """

    @abstractmethod
    def start(self, task: Task, layout: tuple[int, ...], block: Block) -> Tensor:
        """The first state, or the null row's, in blocked layout `[B, *layout]`."""

    @abstractmethod
    def renderer(self, clean: Tensor, block: Block) -> Render:
        """A function of a state in voxel layout and a step's number that makes the volumes, not yet clamped.

        What does not change between steps, the clean spectrum first of all, is computed here.
        """

    @abstractmethod
    def distance(self, clean: Tensor, block: Block) -> Distance:
        """The SSIM loss from the clean volumes, `[B]`."""

    @property
    def task_weight(self) -> float:
        """Weight of the task loss."""
        return 1.0

    @property
    def passes(self) -> tuple[int, int]:
        """One forward and one backward a step; none for a null row."""
        return (self.steps, self.steps) if self.control == "none" else (0, 0)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """How far the table leaves its bounds."""
        if state is None:
            return float("inf")
        low, high = self.bounds
        return max(low - float(state.min()), float(state.max()) - high)

    def perturb(self, task: Task) -> Tensor:
        """Optimise the table, or render the null row's."""
        block = cut_block(self.block, task.clean.shape[2:])
        shape = pad_to_blocks(task.clean, block).shape[2:]
        state = merge(self.start(task, (1, *blocked_shape(shape, block)), block), shape)
        render = self.renderer(task.clean, block)
        if self.control == "none":
            distance = self.distance(task.clean, block) if self.ssim_weight else None
            images, state = self._optimise(task, state, render, distance)
        else:
            images = render(state, self.steps - 1)
        task.state = split(state, block)
        return images.clamp(0, 1)

    def _optimise(self, task: Task, state: Tensor, render: Render, distance: Distance | None) -> tuple[Tensor, Tensor]:
        """The volumes of the last forward pass, and the state after the last update.

        A sample that is entirely reached keeps both from then on, which is the released early stop, sample by sample,
        without asking the device: the passes go on, and their losses are those of the state that is kept.
        """
        images, runs = task.clean, torch.ones_like(task.clean[:, :, :1, :1, :1], dtype=torch.bool)
        for i in range(self.steps):
            objective = partial(self._objective, task, render, i, distance)
            gradient, (rendered, is_reached) = task.gradient_and(state, objective)
            images = torch.where(runs, rendered, images)
            state = torch.where(runs, self.step(state, gradient.sign_()), state)
            runs = runs & ~is_reached.reshape(runs.shape)
        return images, state

    def _objective(
        self, task: Task, render: Render, i: int, distance: Distance | None, state: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        images = render(state, i)
        logits = task.logits(images)
        values = self.task_weight * task.raised(logits, dice if self.variant == "paper" else dice_ce)
        if distance is not None:
            # After the network: its backward then runs before the network's, under this side's arithmetic.
            values = values - self.ssim_weight * distance(images)
        return values, (images.detach(), task.is_reached(logits))


def given_table(task: Task, layout: tuple[int, ...], bounds: tuple[float, float], name: str) -> Tensor | None:
    """The `start` of the call in blocked layout, or None.

    Raises:
        UserError: it has another shape or leaves the bounds by more than rounding.
    """
    table = task.given_start(layout)
    if table is not None:
        low, high = (float(bound) for bound in table.aminmax())
        if not (low >= bounds[0] - 1e-6 and high <= bounds[1] + 1e-6):
            raise UserError(f"{name}: expected a start in [{bounds[0]:g}, {bounds[1]:g}], got [{low:.6g}, {high:.6g}]")
    return table
