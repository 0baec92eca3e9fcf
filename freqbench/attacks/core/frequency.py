"""What VAFA, SA2, SSA and DFB share, the DCT of blocks; and what VAFA and SA2 do: a table moved by signs, null rows."""

import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.core.base import Attack
from freqbench.attacks.core.best import Best
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import PARAMETERS, VARIANT_LOSS, Parameter
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.bands import band_mask
from freqbench.ops.blocks import Block, cut_block, merge, merge_slices, pad_to_blocks, split, split_slices
from freqbench.ops.dct import dct, dct_matrices, idct

Render = Callable[[Tensor, int], Tensor]
Distance = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class BlockAttack(Attack):
    """An attack on the DCT of blocks.

    Class attributes:
        per_slice: blocks are one voxel deep, which makes the two-dimensional transform of every depth slice.

    Args:
        block: side of the DCT block in voxels, or three (of a slice: or two); cut to the window where it is longer.
    """

    per_slice: ClassVar[bool] = False

    block: int | tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.block, int):
            # One spelling of a block, as attacks are told apart by their parameters.
            sides = tuple(self.block)
            object.__setattr__(self, "block", sides[0] if len(set(sides)) == 1 else sides)

    def cut(self, shape: Sequence[int]) -> Block:
        """The block's three sides in a window `H, W, D`."""
        return cut_block(self.block, shape, self.per_slice)

    def shortened(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """The sides, of a slice two, in a window `H, W, D` that is shorter than the block; None where it fits."""
        cut = self.cut(shape)
        if cut == self.cut((sys.maxsize,) * 3):
            return None
        return cut[:2] if self.per_slice else cut

    def to_blocks(self, x: Tensor, block: Block) -> Tensor:
        """Voxel layout to blocked layout, of a volume that blocks tile; of slices one by one."""
        return (split_slices if self.per_slice else split)(x, block)

    def to_voxels(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        """Back to voxel layout `[B, C, *shape]`."""
        return (merge_slices if self.per_slice else merge)(blocks, shape)


@dataclass(frozen=True, kw_only=True)
class FrequencyAttack(BlockAttack, GradientAttack):
    """An attack that learns one number a DCT coefficient of every block: a quantisation step or a multiplier.

    The state is kept in voxel layout, coefficient (i, j, k) of a block standing where its voxel stood, over the window
    padded to whole blocks, of every channel; starts come in, and the final state goes out, in blocked layout
    `[B, C, N, h, w, d]`, of slices `[B, C, D, N, h, w]`.

    Args:
        steps: gradient steps; one forward and one backward pass each.
        block: see `BlockAttack`.
        ssim_weight: weight of the SSIM loss that is held against the task loss; 0 leaves it out.
        control: `none`, or a null row in place of the attack: same volumes, no gradient.
        loss: the task loss; None: the variant's, Dice + cross-entropy or, in `paper`, Dice alone.

    What every gradient attack takes beside: `freqbench.attacks.core.gradient`. Volumes are compared by the whole
    objective, the SSIM loss with it; with `keep: best` the state is the one that the volumes show.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {**PARAMETERS, "loss": VARIANT_LOSS}

    steps: int = 20
    block: int | tuple[int, ...] = 32
    ssim_weight: float = 1.0
    control: str = "none"
    loss: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss == self.variant_loss:
            # One spelling of a loss, as attacks are told apart by their parameters.
            object.__setattr__(self, "loss", None)

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

    def task_term(self, task: Task, logits: Tensor, raised: Tensor) -> Tensor:
        """The task's share of the objective, `[B]`.

        Args:
            task: what is attacked.
            logits: of the volumes.
            raised: the loss, or its negative for a target, `[B]`.
        """
        return raised

    @property
    def variant_loss(self) -> str:
        """The task loss of the variant."""
        return "dice" if self.variant == "paper" else "dicece"

    @property
    def loss_name(self) -> str:
        """`loss`, or the variant's."""
        return self.loss or self.variant_loss

    @property
    def run_passes(self) -> tuple[int, int]:
        """One forward and one backward a step; none for a null row."""
        return (self.steps, self.steps) if self.control == "none" else (0, 0)

    @property
    def passes_to_compare(self) -> int:
        """None: the volumes are those of a step's own forward pass."""
        return 0

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """How far the table leaves its bounds."""
        if state is None:
            return float("inf")
        # As the state can hold them: 61.9 in float32 is above 61.9.
        low, high = (float(state.new_tensor(bound)) for bound in self.bounds)
        return max(low - float(state.min()), float(state.max()) - high)

    def perturb(self, task: Task) -> Tensor:
        """Optimise the table, or render the null row's."""
        block = self.cut(task.clean.shape[2:])
        padded = pad_to_blocks(task.clean, block)
        layout = self.to_blocks(padded, block).shape[1:]
        render = self.renderer(task.clean, block)
        distance = self.distance(task.clean, block) if self.ssim_weight and self.control == "none" else None

        def run() -> tuple[Tensor, ...]:
            state = self.to_voxels(self.start(task, layout, block), padded.shape[2:])
            if self.control == "none":
                return self._optimise(task, state, render, distance)
            return render(state, self.steps - 1), state

        images, state = self.strongest(task, run, lambda images: images.clamp(0, 1))
        task.state = self.to_blocks(state, block)
        return images.clamp(0, 1)

    def _optimise(self, task: Task, state: Tensor, render: Render, distance: Distance | None) -> tuple[Tensor, ...]:
        """The volumes of the last forward pass with the state after the last update, or of all passes the best.

        A sample that is entirely reached keeps both from then on, which is the released early stop, sample by sample,
        without asking the device: the passes go on, and their losses are those of the state that is kept.
        """
        best = Best()
        images, runs = task.clean, torch.ones_like(task.clean[:, :1, :1, :1, :1], dtype=torch.bool)
        values = task.clean.new_zeros(len(images))
        for i in range(self.steps):
            objective = partial(self._objective, task, render, i, distance)
            gradient, (rendered, compared, is_reached) = task.gradient_and(state, objective)
            images = torch.where(runs, rendered, images)
            values = torch.where(runs.flatten(), compared, values)
            if self.keep == "best":
                best.offer(values, images, state)
            state = torch.where(runs, self.step(state, gradient.sign_()), state)
            runs = runs & ~is_reached.reshape(runs.shape)
        return best.kept if self.keep == "best" else (images, state)

    def _objective(
        self, task: Task, render: Render, i: int, distance: Distance | None, state: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        images = render(state, i)
        logits = task.logits(images)
        raised = task.raised(logits)
        values = self.task_term(task, logits, raised)
        with torch.no_grad():
            compared = self.task_term(task, logits, task.compared(logits, raised))
        if distance is not None:
            # After the network: its backward then runs before the network's, under this side's arithmetic.
            dissimilarity = self.ssim_weight * distance(images)
            values, compared = values - dissimilarity, compared - dissimilarity.detach()
        return values, (images.detach(), compared, task.is_reached(logits))


def band_scaler(clean: Tensor, block: Block, band: str, *, with_dc: bool) -> Callable[[Tensor], Tensor]:
    """A function of multipliers in voxel layout that scales a band of the spectrum of clean - 0.5, not yet clamped.

    Only the change is transformed back: a multiplier of 1 changes nothing, to the bit.

    Args:
        clean: `[B, C, H, W, D]`.
        block: from `cut_block`.
        band: the coefficients that the multipliers reach.
        with_dc: DC too, where the band holds it.
    """
    h, w, d = clean.shape[2:]
    matrices = dct_matrices(block, clean)
    padded = pad_to_blocks(clean, block)
    mask = band_mask(band, block)
    mask[0, 0, 0] &= with_dc
    tiles = [size // side for size, side in zip(padded.shape[2:], block, strict=True)]
    spectrum = dct(padded - 0.5, matrices) * mask.repeat(tiles).to(padded)

    def scale(multipliers: Tensor) -> Tensor:
        return clean + idct(spectrum * (multipliers - 1), matrices)[:, :, :h, :w, :d]

    return scale


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
