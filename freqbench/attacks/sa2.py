"""SA2, the spectrum attack with scaled coefficients.  Hanif et al., ISBI 2025."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.core.ascent import Ascent, Distance, penalty
from freqbench.attacks.core.blocks import Blocks, outside
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.parameters import PARAMETERS, RATIO_STEP, SLICE_BLOCK
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.blocks import Block, tiled
from freqbench.ops.dct import BlockDCT, band_mask
from freqbench.ops.ssim import ssim_loss

COSINE_WEIGHT = 5.5
COSINE_FACTOR = 1.5
WITH_DC = "dct-scaling-with-dc"


@dataclass(frozen=True, kw_only=True)
class SA2(GradientAttack):
    r"""Multiplies every DCT coefficient of every block by a learned number near 1.

    With c the spectrum of the clean block minus 0.5, w the multipliers, and m = w, except 1 at DC and outside the band:

    .. math:: a = \mathrm{IDCT}(c \, m) + 0.5, \qquad
              J = \lambda_{dice} L(f(a), y) - \lambda_{ssim} \, \mathrm{SSIMloss}(x, a)

    w starts uniform in [1 - rho, 1 + rho]; w <- clamp(w + step_size * sign(dJ/dw), 1 - rho, 1 + rho). L is `loss`, Dice
    + cross-entropy by default. The SSIM of the whole window is a penalty, not a bound. The network and the SSIM receive
    a before it is clamped, with values below 0 and above 1. A sample stops when no voxel is predicted as its label or,
    with a target, when every voxel is. The volume is that of the last forward pass, clamped; `state` is w after the
    last update. At DC and outside the band w keeps its start and does not affect the volume. With `keep: best` the
    volume and w are those of the highest J.

    Args:
        dice_weight, ssim_weight: the lambdas; an SSIM weight of 0 leaves the SSIM out.
        step_size: length of a step of the multipliers, not scaled by rho.
        band: frequencies that may change: `all`, `low`, `middle` or `high` (`freqbench.ops.dct`).
        control: `none`, or a null row in place of the attack: `random`: the random start itself; `uniform`: 1 - rho for
            every multiplier, which damps all detail alike.

    `start`: the initial multipliers, `[B, C, N, h, w, d]`.

    In `paper` the mean of a block may change too: threat model `dct-scaling-with-dc`. `sa2_opt` searches for the
    strongest multipliers.

    **Variants.** `released`: the code of SA2. `released-cosine`: a form in the same code that no paper mentions. With
    cos the mean cosine of softmax and one-hot label, it replaces :math:`\lambda_{dice} L` by :math:`\lambda_{dice} L +
    5.5 (1 - \cos)`, and towards a target by :math:`1.5 \lambda_{dice} L (1 - \cos)`. `paper`: L is Dice alone; `state`
    is 1 outside the band; DC changes like any other coefficient. The step of 0.1 comes from the released code; the
    final clamp is added here.

    **Differs from the released code**: each sample stops by itself and has its own cosine; there the whole batch stops
    at once and shares one. The defaults are those of its README (rho 0.4, 10 steps, block 16, weights 0.2 and 0.75),
    not of its constructor.
    """

    name = "sa2"
    budget_name = "rho"
    random_start = True
    variants: ClassVar[tuple[str, ...]] = ("released", "released-cosine", "paper")
    parameters = PARAMETERS | {"step_size": RATIO_STEP}
    per_slice = False
    keeps_best = True

    rho: float = 0.4
    steps: int = 10
    step_size: float = 0.1
    block: int | tuple[int, ...] = 16
    dice_weight: float = 0.2
    ssim_weight: float = 0.75
    band: str = "all"
    control: str = "none"
    loss: str | None = None  # type: ignore[assignment]  # None: the loss of the variant

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the multipliers: 1 - rho and 1 + rho."""
        return 1 - self.rho, 1 + self.rho

    @property
    def threat_model(self) -> str:
        """`dct-scaling`, or in `paper` `dct-scaling-with-dc`."""
        return WITH_DC if self.variant == "paper" else "dct-scaling"

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Runs the paper's algorithm, or makes a null row; returns volumes and their multipliers in blocked layout."""
        x = task.clean
        (low, high) = self.bounds
        blocks = Blocks.of(x, self.block, self.per_slice)
        volume_of = band_scaler(x, blocks.sides, self.band, with_dc=self.variant == "paper")  # w -> IDCT(c m) + 0.5
        w = blocks.full(low) if self.control == "uniform" else blocks.drawn(task, low, high)
        if self.variant == "paper":
            w = torch.where(tiled(band_mask(self.band, blocks.sides), w), w, 1.0)
        if self.control != "none":
            return volume_of(w).clamp(0, 1), blocks.to_blocks(w)

        price = penalty(self.ssim_weight, partial(self.distance, x))
        ascent = Ascent(task, self.keep, partial(self._weighed, task.objective), price)
        for _ in range(self.steps):
            g = ascent.gradient(w, volume_of)  # dJ/dw,  J = lambda_dice L(f(a), y) - lambda_ssim SSIMloss(x, a)
            w = ascent.move(w, (w + self.step_size * g.sign()).clamp(low, high))
        volume, w = ascent.result(w)
        return volume.clamp(0, 1), blocks.to_blocks(w)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns how far the multipliers of `state` leave their bounds; `clean` and `adversarial` volumes are not
        needed."""
        return outside(state, *self.bounds)

    def distance(self, clean: Tensor) -> Distance:
        """Returns the function that takes volumes and gives their SSIM loss with the `clean` ones over the whole
        window, `[B]`."""
        return ssim_loss(clean)

    def _weighed(self, objective: Objective, logits: Tensor, loss: Tensor) -> Tensor:
        """Returns lambda_dice L, with the cosine if the variant has it, `[B]`."""
        weighted = self.dice_weight * loss
        if self.variant != "released-cosine":
            return weighted
        cosine = objective.head.cosine_to_label(objective.head.probabilities(logits), objective.labels)
        apart = 1 - objective.head.voxel_mean(cosine, objective.scope)
        return weighted + COSINE_WEIGHT * apart if objective.sign > 0 else COSINE_FACTOR * weighted * apart


def band_scaler(clean: Tensor, block: Block, band: str, *, with_dc: bool) -> Callable[[Tensor], Tensor]:
    """Returns a function of multipliers in voxel layout that scales a band of the spectrum, by a `block` (sides in
    voxels), of clean - 0.5, unclamped.

    Only the change of the spectrum is transformed back, so multipliers of 1 return `clean` to the bit. `with_dc`: scale
    DC too, if it is in the band.
    """
    transform = BlockDCT.of(clean, block)
    mask = band_mask(band, block)
    mask[0, 0, 0] &= with_dc
    spectrum = transform.spectrum(clean - 0.5)
    spectrum = spectrum * tiled(mask, spectrum)
    return lambda multipliers: clean + transform.volume(spectrum * (multipliers - 1))


@dataclass(frozen=True, kw_only=True)
class SA2In2D(SA2):
    """`SA2` on the two-dimensional DCT of every depth slice; `block` has one side or two; the SSIM covers the window.

    `start` and `state`: `[B, C, D, N, h, w]`.

    **Variants.** `released`: the code of SA2. Its SSIM compares voxel (p, q, r) of the attacked volume with voxel (q,
    r, p) of the clean one: a mistake, because such a value says nothing about their similarity, but the gradient
    follows it. It needs H = W = D; other windows raise a UserError. `paper`: the SSIM of corresponding voxels, as in
    `SA2`.

    **Differs from the released code** as `SA2` does. Without SSIM, H and W may also differ: the released code swaps
    them when it joins the blocks, and fails.
    """

    name = "sa2_2d"
    variants = ("released", "paper")
    parameters = SA2.parameters | {"block": SLICE_BLOCK}
    per_slice = True

    def distance(self, clean: Tensor) -> Distance:
        """Returns the SSIM loss; in `released` from the permuted clean volumes."""
        if self.variant == "paper":
            return super().distance(clean)
        if len(set(clean.shape[2:])) > 1:
            got = "x".join(map(str, clean.shape[2:]))
            raise UserError(
                f"{self.name}: expected a cubic window for the SSIM of variant released, got {got}: "
                "set ssim_weight to 0 or variant to paper"
            )
        return ssim_loss(clean.permute(0, 1, 4, 2, 3).contiguous())
