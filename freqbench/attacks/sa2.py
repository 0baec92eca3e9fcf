"""SA2, the spectrum attack with scaled coefficients.  Hanif et al., ISBI 2025."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.core.frequency import FrequencyAttack
from freqbench.attacks.core.parameters import PARAMETERS, RATIO_STEP, SLICE_BLOCK, ByParameters
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.bands import band_mask
from freqbench.ops.blocks import Block, tiled
from freqbench.ops.dct import BlockDCT
from freqbench.ops.losses import cosine_to_label, voxel_mean
from freqbench.ops.ssim import ssim_loss

COSINE_WEIGHT, COSINE_FACTOR = 5.5, 1.5
WITH_DC = "dct-scaling-with-dc"


@dataclass(frozen=True, kw_only=True)
class SA2(FrequencyAttack):
    r"""Multiplies every DCT coefficient of every block by a learned number near 1.

    With c the spectrum of the clean block minus 0.5, w the multipliers, and m = w, except 1 at DC and outside the band:

    .. math:: a = \mathrm{IDCT}(c \, m) + 0.5, \qquad
              J = \lambda_{dice} L(f(a), y) - \lambda_{ssim} \, \mathrm{SSIMloss}(x, a)

    w starts uniform in [1 - rho, 1 + rho]; w <- clamp(w + step_size * sign(dJ/dw), 1 - rho, 1 + rho). L is `loss`, Dice
    + cross-entropy by default; the SSIM is that of the whole window and a penalty: it bounds nothing. Network and SSIM
    see a unclamped, below 0 and above 1. A sample stops when no voxel is predicted as labelled (or all are at the
    target). The volume is that of the last forward pass, clamped; `state` is w after the last update: at DC and outside
    the band it keeps its start, which the volume does not show.

    Args:
        step_size: length of a step of the multipliers, not scaled by rho.
        band: `all`, or the only frequencies that change: `low`, `middle` or `high` (`freqbench.ops.bands`).
        control: `random`: the start, not optimised; `uniform`: every multiplier is 1 - rho, so that all detail is
            damped alike.

    `start`: the initial multipliers, `[B, C, N, h, w, d]`.

    In `paper` the mean of a block may move too: `dct-scaling-with-dc`. `sa2_opt` finds the strongest multipliers.

    **Variants.** `released`: the code of SA2. `released-cosine`: a form in the same code that no paper mentions: with
    cos the mean cosine of softmax and one-hot label, :math:`\lambda_{dice} L` becomes :math:`\lambda_{dice} L + 5.5 (1
    - \cos)`, towards a target :math:`1.5 \lambda_{dice} L (1 - \cos)`. `paper`: L is Dice alone; multipliers outside
    the band are 1 in the state too; DC is not exempt. The step of 0.1 is the code's, the final clamp ours.

    **Differs from the released code**: early stop and cosine look at each sample instead of the whole batch. Defaults
    are those of its README (rho 0.4, 10 steps, block 16, weights 0.2 and 0.75), not of its constructor.
    """

    name = "sa2"
    threat_model = ByParameters("dct-scaling", lambda attack: WITH_DC if attack.variant == "paper" else "dct-scaling")
    budget_name = "rho"
    random_start = True
    variants: ClassVar[tuple[str, ...]] = ("released", "released-cosine", "paper")
    parameters = PARAMETERS | {"step_size": RATIO_STEP}

    rho: float = 0.4
    steps: int = 10
    step_size: float = 0.1
    block: int | tuple[int, ...] = 16
    dice_weight: float = 0.2
    ssim_weight: float = 0.75
    band: str = "all"

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the multipliers: 1 - rho and 1 + rho."""
        return 1 - self.rho, 1 + self.rho

    def step(self, state: Tensor, direction: Tensor) -> Tensor:
        """Moves by one `step_size` towards the direction, inside the bounds."""
        return (state + self.step_size * direction).clamp(*self.bounds)

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Runs the algorithm of the paper, or a null row; returns unclamped volumes a and their multipliers w."""
        x, block, (low, _) = task.clean, self.cut(task.clean.shape[2:]), self.bounds
        volume_of = band_scaler(x, block, self.band, with_dc=self.variant == "paper")  # w -> IDCT(c m) + 0.5
        w = self.first_state(task, low if self.control == "uniform" else None)
        if self.variant == "paper":
            w = torch.where(tiled(band_mask(self.band, block), w), w, 1.0)
        if self.control != "none":
            return volume_of(w), w
        return self.followed(task, w, [partial(self.objective(task, block), volume_of)] * self.steps)

    def task_term(self, task: Task, logits: Tensor, loss: Tensor) -> Tensor:
        """Returns the task loss weighted by `dice_weight`, with the cosine if the variant has it, `[B]`."""
        weighted = self.dice_weight * loss
        if self.variant != "released-cosine":
            return weighted
        objective = task.objective
        cosine = cosine_to_label(torch.softmax(logits, dim=1), objective.labels)
        apart = 1 - voxel_mean(cosine[:, 0], objective.scope)
        return weighted + COSINE_WEIGHT * apart if objective.sign > 0 else COSINE_FACTOR * weighted * apart

    def distance(self, clean: Tensor, block: Block) -> Callable[[Tensor], Tensor]:
        """Returns the SSIM loss over the whole window."""
        return ssim_loss(clean)


def band_scaler(clean: Tensor, block: Block, band: str, *, with_dc: bool) -> Callable[[Tensor], Tensor]:
    """Returns a function of multipliers in voxel layout that scales a band of the spectrum of clean - 0.5, unclamped.

    Only the change is transformed back: a multiplier of 1 changes nothing, to the bit. `with_dc`: scale DC too, if it
    is in the band.
    """
    transform, mask = BlockDCT.of(clean, block), band_mask(band, block)
    mask[0, 0, 0] &= with_dc
    spectrum = transform.spectrum(clean - 0.5)
    spectrum = spectrum * tiled(mask, spectrum)
    return lambda multipliers: clean + transform.volume(spectrum * (multipliers - 1))


@dataclass(frozen=True, kw_only=True)
class SA2In2D(SA2):
    """`SA2` on the two-dimensional DCT of every depth slice; `block` has one side or two; the SSIM covers the window.

    `start` and `state`: `[B, C, D, N, h, w]`.

    **Variants.** `released`: the code of SA2, whose SSIM is a mistake: it compares voxel (p, q, r) of the attacked
    volume with (q, r, p) of the clean one, which says nothing about their similarity, yet drives the gradient, and
    needs H = W = D: other windows raise a UserError. `paper`: as in `SA2`, the SSIM of corresponding voxels.

    **Differs from the released code**: as `SA2` does; and without SSIM, H and W may differ: the released re-assembly
    confuses them and fails.
    """

    name = "sa2_2d"
    variants = ("released", "paper")
    parameters = SA2.parameters | {"block": SLICE_BLOCK}
    per_slice = True

    def distance(self, clean: Tensor, block: Block) -> Callable[[Tensor], Tensor]:
        """Returns the SSIM loss over the whole window; in `released` from the permuted clean volume."""
        if self.variant == "paper":
            return super().distance(clean, block)
        if len(set(clean.shape[2:])) > 1:
            got = "x".join(map(str, clean.shape[2:]))
            raise UserError(
                f"{self.name}: expected a cubic window for the SSIM of variant released, got {got}: "
                "set ssim_weight to 0 or variant to paper"
            )
        return ssim_loss(clean.permute(0, 1, 4, 2, 3).contiguous())
