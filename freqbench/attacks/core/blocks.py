"""Cuts a window into the blocks of a DCT, and arranges arrays with one number for each coefficient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.blocks import Block, along_axes, cut_block, merge, merge_slices, pad_to_blocks, split, split_slices

Change = Callable[[Tensor], Tensor]
BLOCK_CUT = "block_cut"  # key beside an attack's parameters: the sides of its block, cut to a shorter window


@dataclass(frozen=True)
class Blocks:
    """The blocks of a window.

    An array of one number for each coefficient has one of two layouts. Voxel layout is `[B, C, H, W, D]` of the padded
    window: coefficient (i, j, k) of a block stands where voxel (i, j, k) of the block does. Starts and states have
    blocked layout, `[B, C, N, h, w, d]`, for slices `[B, C, D, N, h, w]`, with blocks n = ih * W/w + iw.

    Attributes:
        sides: sides of a block in voxels.
        padded: the clean volumes, padded to whole blocks.
        per_slice: true: blocks are one voxel deep, and blocked layout has an axis of slices, D.
    """

    sides: Block
    padded: Tensor
    per_slice: bool = False

    @classmethod
    def of(cls, clean: Tensor, block: int | Sequence[int], per_slice: bool | None = False) -> "Blocks":
        """Cuts `block`, one side or several, to the window of clean volumes and pads the volumes; `per_slice` as in
        Attack."""
        sides = cut_block(block, clean.shape[2:], bool(per_slice))
        return cls(sides, pad_to_blocks(clean, sides), bool(per_slice))

    def to_blocks(self, padded: Tensor) -> Tensor:
        """Converts `padded` volumes `[B, C, H, W, D]` from voxel layout to blocked layout."""
        return (split_slices if self.per_slice else split)(padded, self.sides)

    def to_voxels(self, blocked: Tensor) -> Tensor:
        """Converts blocked layout to voxel layout."""
        return (merge_slices if self.per_slice else merge)(blocked, self.padded.shape[2:])

    def layout(self) -> tuple[int, ...]:
        """Returns the shape of one sample in blocked layout."""
        return tuple(self.to_blocks(self.padded).shape[1:])

    def full(self, value: float) -> Tensor:
        """Returns one value everywhere, in voxel layout."""
        return torch.full_like(self.padded, value)

    def drawn(self, task: Task, low: float, high: float) -> Tensor:
        """Returns the `start` of the call of `task`, or else a uniform draw in [low, high], in voxel layout."""
        state = self.given(task, low, high)
        if state is None:
            state = low + (high - low) * task.draw(torch.rand, self.layout())
        return self.to_voxels(state).clamp(low, high)

    def given(self, task: Task, low: float, high: float) -> Tensor | None:
        """Returns the `start` of the call of `task` in blocked layout, or None; raises a UserError for a wrong shape,
        or a value below `low` or above `high`."""
        state = task.given_start(self.layout())
        if state is None:
            return None
        least, largest = (float(bound) for bound in state.aminmax())
        if not (least >= low - 1e-6 and largest <= high + 1e-6):
            expected = f"[{low:g}, {high:g}]"
            got = f"[{least:.6g}, {largest:.6g}]"
            raise UserError(f"{task.name}: expected a start in {expected}, got {got}")
        return state

    def recomputed(self, change: Change, scale: float, middle: float) -> Tensor:
        """Returns volumes made in float64 by a DCT other than the attack's, a check on its arithmetic.

        It is SciPy's, as what SciPy makes of unit vectors is a matrix, which a GPU applies as well. `change` receives
        the spectrum of scale * clean - middle, in blocked layout, and returns that of the volumes less `middle`. The
        volumes are on the same scale, padded.
        """
        blocks = self.to_blocks(self.padded.double()) * scale - middle
        matrices = [_dct_by_scipy(side).to(blocks.device) for side in self.sides]

        def transformed(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
            return along_axes(x.reshape(-1, 1, *self.sides), matrices).reshape(x.shape)

        spectrum = change(transformed(blocks, matrices))
        return self.to_voxels(transformed(spectrum, [matrix.T for matrix in matrices]) + middle)


@cache
def _dct_by_scipy(size: int) -> Tensor:
    return torch.from_numpy(dct(np.eye(size), axis=0, norm="ortho"))


def outside(state: Tensor | None, low: float, high: float) -> float:
    """Returns how far a state leaves its bounds `low` and `high`; infinity for a missing one."""
    if state is None:
        return float("inf")
    # Bounds in the dtype of the state: 61.9 in float32 is above 61.9.
    least, most = (float(state.new_tensor(bound)) for bound in (low, high))
    return max(least - float(state.min()), float(state.max()) - most)
