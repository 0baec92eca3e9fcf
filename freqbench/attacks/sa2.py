"""SA2, the spectrum attack with scaled coefficients.  Hanif et al., ISBI 2025."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.core.frequency import Distance, FrequencyAttack, Render, band_scaler, given_table
from freqbench.attacks.core.parameters import RATIO_STEP, SLICE_BLOCK, Parameter
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.bands import band_mask
from freqbench.ops.blocks import Block
from freqbench.ops.ssim import ssim_loss
from freqbench.ops.voxel_losses import voxel_mean
from freqbench.ops.voxelwise import cosine_to_label

COSINE_WEIGHT, COSINE_FACTOR = 5.5, 1.5
WITH_DC = "dct-scaling-with-dc"


@dataclass(frozen=True, kw_only=True)
class SA2(FrequencyAttack):
    r"""Multiplies every DCT coefficient of every block by a learned number near 1.

    With c the spectrum of the clean block less 0.5, w the multipliers, and m = w, except 1 at DC and outside the band:

    .. math:: a = \mathrm{IDCT}(c \, m) + 0.5, \qquad
              J = \lambda_{dice} L(f(a), y) - \lambda_{ssim} \, \mathrm{SSIMloss}(x, a)

    w starts uniform in [1 - rho, 1 + rho]; w <- clamp(w + step_size * sign(dJ/dw), 1 - rho, 1 + rho). L is `loss`,
    Dice + cross-entropy by default, the SSIM is that of the whole window, and a penalty: it bounds nothing. Network and
    SSIM see a as it is, below 0 and above 1. A sample without a voxel left that is predicted as labelled (or entirely
    at its target) stops. The volume is that of the last forward pass, clamped; `state` is w after the last update: at
    DC and outside the band it keeps its start, which the volume does not show.

    Args:
        rho: how far a multiplier may leave 1, in [0, 1).
        steps: gradient steps; one forward and one backward pass each.
        step_size: length of a step of a multiplier; not scaled by rho.
        block: side of the DCT block in voxels, or three.
        dice_weight: weight of the task loss.
        ssim_weight: weight of the SSIM loss; 0 leaves it out.
        band: `all`, or the only frequencies that change: `low`, `middle` or `high` (`freqbench.ops.bands`).
        control: `random`: the start, not optimised; `uniform`: every multiplier is 1 - rho, all detail damped alike.

    `start`: the initial multipliers, `[B, C, N, h, w, d]`.

    **Threat model.** `dct-scaling`; in `paper`, where the mean of a block may move too, `dct-scaling-with-dc`
    (`freqbench.attacks.core.threat_models`). The strongest multipliers of both are `sa2_opt`'s.

    **Variants.** `released`: the code of SA2. `released-cosine`: a form in the same code that no paper names: with cos
    the mean cosine of softmax and one-hot label, :math:`\lambda_{dice} L` becomes :math:`\lambda_{dice} L +
    5.5 (1 - \cos)`, towards a target :math:`1.5 \lambda_{dice} L (1 - \cos)`. `paper`: L is Dice alone; multipliers
    outside the band are 1 in the state too; DC is not exempt. Its step is not stated (0.1 is the code's), nor is the
    final clamp, which volumes in [0, 1] need.

    **Differs from the released code**: early stop and cosine look at each sample instead of the whole batch. Defaults
    are those of its README (rho 0.4, 10 steps, block 16, weights 0.2 and 0.75), not of its constructor.
    """

    name: ClassVar[str] = "sa2"
    threat_model: ClassVar[str] = "dct-scaling"
    budget_name: ClassVar[str] = "rho"
    variants: ClassVar[tuple[str, ...]] = ("released", "released-cosine", "paper")
    parameters: ClassVar[Mapping[str, Parameter]] = {**FrequencyAttack.parameters, "step_size": RATIO_STEP}

    rho: float = 0.4
    steps: int = 10
    step_size: float = 0.1
    block: int | tuple[int, ...] = 16
    dice_weight: float = 0.2
    ssim_weight: float = 0.75
    band: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "paper":
            object.__setattr__(self, "threat_model", WITH_DC)  # in place of the class's

    @property
    def bounds(self) -> tuple[float, float]:
        """1 - rho and 1 + rho."""
        return 1 - self.rho, 1 + self.rho

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
        mask = band_mask(self.band, block).to(multipliers.device)
        return torch.where(mask[..., 0] if self.per_slice else mask, multipliers, 1.0)

    def renderer(self, clean: Tensor, block: Block) -> Render:
        """Scale the band of the clean spectrum."""
        scale = band_scaler(clean, block, self.band, with_dc=self.variant == "paper")
        return lambda multipliers, i: scale(multipliers)

    def task_term(self, task: Task, logits: Tensor, raised: Tensor) -> Tensor:
        """Weighted by `dice_weight`, with the cosine where the variant has it."""
        weighted = self.dice_weight * raised
        if self.variant != "released-cosine":
            return weighted
        apart = 1 - voxel_mean(cosine_to_label(torch.softmax(logits, dim=1), task.labels)[:, 0], task.scope)
        return weighted + COSINE_WEIGHT * apart if task.sign > 0 else COSINE_FACTOR * weighted * apart

    def distance(self, clean: Tensor, block: Block) -> Distance:
        """Over the whole window."""
        return ssim_loss(clean)


@dataclass(frozen=True, kw_only=True)
class SA2In2D(SA2):
    """`SA2` on the two-dimensional DCT of every depth slice; the SSIM stays that of the whole window.

    Args:
        rho: how far a multiplier may leave 1, in [0, 1).
        steps: gradient steps; one forward and one backward pass each.
        step_size: length of a step of a multiplier; not scaled by rho.
        block: side of the DCT block of a slice in voxels, or two.
        dice_weight: weight of the task loss.
        ssim_weight: weight of the SSIM loss; 0 leaves it out.
        band: `all`, or the only frequencies of a slice that change: `low`, `middle` or `high`.
        control: as in `SA2`.

    `start` and `state`: `[B, C, D, N, h, w]`, blocks n = ih * W/w + iw of the slices in front.

    **Variants.** `released`: the code of SA2, whose SSIM is a mistake: it compares voxel (p, q, r) of the attacked
    volume with (q, r, p) of the clean one, which says nothing about their likeness, yet drives the gradient, and needs
    H = W = D. `paper`: as in `SA2`, SSIM of like with like.

    **Differs from the released code**: as `SA2` does, and without SSIM H and W may differ, where the released
    re-assembly takes one for the other and fails.

    Raises:
        UserError: `released` with its SSIM on a window that is no cube.
    """

    name: ClassVar[str] = "sa2_2d"
    variants: ClassVar[tuple[str, ...]] = ("released", "paper")
    parameters: ClassVar[Mapping[str, Parameter]] = {**SA2.parameters, "block": SLICE_BLOCK}
    per_slice: ClassVar[bool] = True

    def distance(self, clean: Tensor, block: Block) -> Distance:
        """Over the whole window; in `released` from the clean volume turned."""
        if self.variant == "paper":
            return super().distance(clean, block)
        if len(set(clean.shape[2:])) > 1:
            got = "x".join(map(str, clean.shape[2:]))
            raise UserError(
                f"{self.name}: expected a cubic window for the SSIM of variant released, got {got}: "
                "set ssim_weight to 0 or variant to paper"
            )
        return ssim_loss(clean.permute(0, 1, 4, 2, 3).contiguous())
