"""SA2, the spectrum attack with scaled coefficients.  Hanif et al., ISBI 2025."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.frequency import Distance, FrequencyAttack, Render, given_table
from freqbench.attacks.parameters import RATIO_STEP, Parameter
from freqbench.attacks.task import Task
from freqbench.ops.bands import band_mask
from freqbench.ops.blocks import Block, pad_to_blocks
from freqbench.ops.dct import dct, dct_matrices, idct
from freqbench.ops.ssim import ssim_loss


@dataclass(frozen=True, kw_only=True)
class SA2(FrequencyAttack):
    r"""Multiplies every DCT coefficient of every block by a learned number near 1.

    With c the spectrum of the clean block less 0.5, w the multipliers, and m = w, except 1 at DC and outside the band:

    .. math:: a = \mathrm{IDCT}(c \, m) + 0.5, \qquad
              J = \lambda_{dice} L(f(a), y) - \lambda_{ssim} \, \mathrm{SSIMloss}(x, a)

    w starts uniform in [1 - rho, 1 + rho]; w <- clamp(w + step_size * sign(dJ/dw), 1 - rho, 1 + rho). L is `loss`,
    Dice + cross-entropy by default, the SSIM is that of the whole window. Network and SSIM see a as it is, below 0 and
    above 1. A sample without a voxel left that is predicted as labelled (or entirely at its target) stops. The volume
    is that of the last forward pass, clamped; `state` is w after the last update: at DC and outside the band it keeps
    its start, which the volume does not show.

    Args:
        rho: how far a multiplier may leave 1, in [0, 1).
        steps: gradient steps; one forward and one backward pass each.
        step_size: length of a step of a multiplier; not scaled by rho.
        block: side of the DCT block in voxels, or three.
        dice_weight: weight of the task loss.
        ssim_weight: weight of the SSIM loss; 0 leaves it out.
        band: `all`, or the only frequencies that change: `low`, `middle` or `high` (`freqbench.ops.bands`).
        control: `random`: the start, not optimised; `uniform`: every multiplier is 1 - rho, all detail damped alike.

    `start`: the initial multipliers, `[B, 1, N, h, w, d]`.

    **Variants.** `paper`: L is Dice alone; multipliers outside the band are 1 in the state too; DC is not exempt. Its
    step is not stated (0.1 is the code's), nor is the final clamp, which volumes in [0, 1] need.

    **Differs from the released code**: the early stop looks at each sample instead of the whole batch. Defaults are
    those of its README (rho 0.4, 10 steps, block 16, weights 0.2 and 0.75), not of its constructor.
    """

    name: ClassVar[str] = "sa2"
    threat_model: ClassVar[str] = "dct-scaling"
    budget_name: ClassVar[str] = "rho"
    parameters: ClassVar[Mapping[str, Parameter]] = {**FrequencyAttack.parameters, "step_size": RATIO_STEP}

    rho: float = 0.4
    steps: int = 10
    step_size: float = 0.1
    block: int | tuple[int, int, int] = 16
    dice_weight: float = 0.2
    ssim_weight: float = 0.75
    band: str = "all"

    @property
    def bounds(self) -> tuple[float, float]:
        """1 - rho and 1 + rho."""
        return 1 - self.rho, 1 + self.rho

    @property
    def task_weight(self) -> float:
        """`dice_weight`."""
        return self.dice_weight

    @property
    def is_stochastic(self) -> bool:
        """The start is drawn."""
        return self.control != "uniform"

    def step(self, state: Tensor, direction: Tensor) -> Tensor:
        """One `step_size` towards the direction, inside the bounds."""
        return (state + self.step_size * direction).clamp(*self.bounds)

    def start(self, task: Task, layout: tuple[int, ...], block: Block) -> Tensor:
        """Uniform in the bounds, or what was given; 1 - rho everywhere for the uniform null row."""
        low, high = self.bounds
        if self.control == "uniform":
            multipliers = task.clean.new_full((len(task.clean), *layout), low)
        else:
            given = given_table(task, layout, self.bounds, self.name)
            drawn = low + (high - low) * task.draw(torch.rand, layout) if given is None else given
            multipliers = drawn.clamp(low, high)
        if self.variant != "paper":
            return multipliers
        return torch.where(band_mask(self.band, block).to(multipliers.device), multipliers, 1.0)

    def renderer(self, clean: Tensor, block: Block) -> Render:
        """Scale the clean spectrum and transform the change back: a multiplier of 1 changes nothing, to the bit."""
        h, w, d = clean.shape[2:]
        matrices = dct_matrices(block, clean)
        padded = pad_to_blocks(clean, block)
        mask = band_mask(self.band, block)
        if self.variant != "paper":
            mask[0, 0, 0] = False
        tiles = [size // side for size, side in zip(padded.shape[2:], block, strict=True)]
        spectrum = dct(padded - 0.5, matrices) * mask.repeat(tiles).to(padded)

        def render(multipliers: Tensor, i: int) -> Tensor:
            change = idct(spectrum * (multipliers - 1), matrices)
            return clean + change[:, :, :h, :w, :d]

        return render

    def distance(self, clean: Tensor, block: Block) -> Distance:
        """Over the whole window."""
        return ssim_loss(clean)
