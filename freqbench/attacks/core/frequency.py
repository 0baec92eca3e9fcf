"""Holds what attacks on the DCT of blocks share: the block, layouts, starts, and the step loop of VAFA and SA2."""

import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from freqbench.attacks.core.base import Attack
from freqbench.attacks.core.best import Best, across
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.blocks import Block, cut_block, merge, merge_slices, pad_to_blocks, split, split_slices
from freqbench.ops.ssim import ssim_loss

Seen = tuple[Tensor, Tensor, Tensor]
"""Volumes that a gradient was taken at, the values that compare them, and a flag for each sample that is reached."""

BLOCK_CUT = "block_cut"  # key beside an attack's parameters: the sides of its block, cut to a shorter window


@dataclass(frozen=True, kw_only=True)
class BlockAttack(Attack):
    """An attack on the DCT of blocks.

    `block` is the block's side in voxels, or three sides (for slices: two); it is cut to a shorter window. `per_slice`:
    blocks are one voxel deep, so that each depth slice has a two-dimensional transform.
    """

    per_slice = False

    block: int | tuple[int, ...]

    def cut(self, shape: Sequence[int]) -> Block:
        """Returns the block's three sides in a window `H, W, D`."""
        return cut_block(self.block, shape, self.per_slice)

    def shortened(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Returns the sides (two for slices) of the block, cut to a shorter window `H, W, D`; None if it fits."""
        cut = self.cut(shape)
        if cut == self.cut((sys.maxsize,) * 3):
            return None
        return cut[:2] if self.per_slice else cut

    def to_blocks(self, padded: Tensor) -> Tensor:
        """Converts a volume, padded to whole blocks, from voxel layout to blocked layout; slices one by one."""
        return (split_slices if self.per_slice else split)(padded, self.cut(padded.shape[2:]))

    def to_voxels(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        """Converts blocks back to voxel layout `[B, C, *shape]`."""
        return (merge_slices if self.per_slice else merge)(blocks, shape)

    def padded(self, clean: Tensor) -> Tensor:
        """Pads the volumes to whole blocks."""
        return pad_to_blocks(clean, self.cut(clean.shape[2:]))


@dataclass(frozen=True, kw_only=True)
class StateAttack(BlockAttack, GradientAttack):
    """An attack whose state is one number for each DCT coefficient of every block: a quantisation step or a multiplier.

    The state is kept in voxel layout over the window padded to whole blocks: coefficient (i, j, k) of a block is at the
    place of its voxel. Starts and the final state have blocked layout `[B, C, N, h, w, d]`, for slices `[B, C, D, N, h,
    w]`, with blocks n = ih * W/w + iw.
    """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value of the state."""

    def given_state(self, task: Task) -> Tensor | None:
        """Returns the call's `start` in voxel layout, or None; a wrong shape or value raises a UserError."""
        padded = self.padded(task.clean)
        state = task.given_start(tuple(self.to_blocks(padded).shape[1:]))
        if state is None:
            return None
        low, high = (float(bound) for bound in state.aminmax())
        if not (low >= self.bounds[0] - 1e-6 and high <= self.bounds[1] + 1e-6):
            expected, got = f"[{self.bounds[0]:g}, {self.bounds[1]:g}]", f"[{low:.6g}, {high:.6g}]"
            raise UserError(f"{self.name}: expected a start in {expected}, got {got}")
        return self.to_voxels(state, padded.shape[2:])

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns how far the state leaves its bounds."""
        if state is None:
            return float("inf")
        # Bounds in the dtype of the state: 61.9 in float32 is above 61.9.
        low, high = (float(state.new_tensor(bound)) for bound in self.bounds)
        return max(low - float(state.min()), float(state.max()) - high)


@dataclass(frozen=True, kw_only=True)
class FrequencyAttack(StateAttack):
    """An attack that learns its state along the signs of a gradient.

    `ssim_weight` weighs the SSIM loss that is subtracted from the task loss; 0 leaves it out. `control`: `none`, or a
    null row instead of the attack: volumes from the same set, no gradient. `loss` None: the loss of the variant, Dice +
    cross-entropy or, in `paper`, Dice alone. Volumes are compared by the whole objective; with `keep: best` the state
    belongs to the best volumes.
    """

    passes_to_compare = 0  # the volumes are those of a step's own forward pass

    steps: int = 20
    block: int | tuple[int, ...] = 32
    ssim_weight: float = 1.0
    control: str = "none"
    loss: str | None = None  # type: ignore[assignment]  # None: the variant's

    def spelled(self) -> dict[str, Any]:
        """Canonical values, with `loss` None if it is the variant's."""
        values = super().spelled()
        return values | {"loss": None if values["loss"] == self.variant_loss else values["loss"]}

    @abstractmethod
    def step(self, state: Tensor, direction: Tensor) -> Tensor:
        """Returns the state after one step along the sign of the objective's gradient; both share one layout."""

    @abstractmethod
    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Runs the algorithm once, or the null row; returns unclamped volumes and their state in voxel layout."""

    @property
    def variant_loss(self) -> str:
        """Task loss of the variant."""
        return "dice" if self.variant == "paper" else "dicece"

    @property
    def loss_name(self) -> str:
        """Name of the task loss: `loss`, or that of the variant."""
        return self.loss or self.variant_loss

    def distance(self, clean: Tensor, block: Block) -> Callable[[Tensor], Tensor]:
        """Returns a function of volumes to their SSIM loss from the clean ones, here block by block, `[B]`."""
        return ssim_loss(clean, block)

    def task_term(self, task: Task, logits: Tensor, loss: Tensor) -> Tensor:
        """Returns the part of the objective that logits determine, made from their task loss, both `[B]`."""
        return loss

    def objective(
        self, task: Task, block: Block
    ) -> Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Seen]]:
        """Makes the objective, a function of a rendering of states into volumes, and of a state."""
        distance = self.distance(task.clean, block) if self.ssim_weight else lambda x: x.new_zeros(len(x))

        def objective(render: Callable[[Tensor], Tensor], state: Tensor) -> tuple[Tensor, Seen]:
            a = render(state)
            logits = task.logits(a)
            loss = task.objective.raised(logits)
            raised = self.task_term(task, logits, loss)
            # Computed after the network: its backward pass then runs first, before the network's sets TF32.
            price = self.ssim_weight * distance(a)
            with torch.no_grad():
                value = self.task_term(task, logits, task.objective.compared(logits, loss)) - price
            return raised - price, (a.detach(), value, task.objective.is_reached(logits))

        return objective

    def perturb(self, task: Task) -> Tensor:
        """Returns the volumes of the run, or of the strongest of several runs."""
        images, state = self.strongest(task, lambda: self.run(task), lambda images: images.clamp(0, 1))
        task.state = self.to_blocks(state)
        return images.clamp(0, 1)

    def followed(
        self, task: Task, state: Tensor, objectives: Iterable[Callable[[Tensor], tuple[Tensor, Seen]]]
    ) -> tuple[Tensor, Tensor]:
        """Steps along the signs of each objective's gradient; returns the last volumes and state, or the best of all.

        A sample that is reached stops and no longer changes.
        """
        volumes, best = task.clean, Best()
        running = torch.ones(len(volumes), dtype=torch.bool, device=volumes.device)
        value = volumes.new_zeros(len(volumes))
        for objective in objectives:
            gradient, (seen, worth, reached) = task.gradient_and(state, objective)
            volumes = torch.where(across(running, volumes), seen, volumes)
            value = torch.where(running, worth, value)
            if self.keep == "best":
                best.offer(value, volumes, state)
            state = torch.where(across(running, state), self.step(state, gradient.sign_()), state)
            running = running & ~reached
        return (best.kept[0], best.kept[1]) if self.keep == "best" else (volumes, state)

    def first_state(self, task: Task, value: float | None = None) -> Tensor:
        """Returns `value` everywhere; if it is None, the call's `start` or else a uniform draw in the bounds."""
        low, high = self.bounds
        padded = self.padded(task.clean)
        if value is not None:
            return torch.full_like(padded, value)
        state = self.given_state(task)
        if state is None:
            drawn = task.draw(torch.rand, self.to_blocks(padded).shape[1:])
            state = self.to_voxels(low + (high - low) * drawn, padded.shape[2:])
        return state.clamp(low, high)
