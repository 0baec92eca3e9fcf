"""VAFA, adversarial quantisation.  Hanif et al., MICCAI 2023, arXiv:2307.07269."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from freqbench.attacks.core.ascent import Ascent, penalty
from freqbench.attacks.core.blocks import Blocks, outside
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import PARAMETERS, SLICE_BLOCK, require_together
from freqbench.attacks.core.task import Task
from freqbench.ops.blocks import Block
from freqbench.ops.dct import BlockDCT
from freqbench.ops.quantisation import alpha_schedule, quantisation_error
from freqbench.ops.ssim import ssim_loss
from freqbench.ops.stretching import stretch_slices, stretch_slices_offset

SCALE = 255.0
STRETCHED = "dct-quantization-stretched"
Q_MIN = {"released": 5.0, "released-saa": 5.0, "paper": 1.0}


@dataclass(frozen=True, kw_only=True)
class VAFA(GradientAttack):
    r"""Quantises the DCT of every block by a table that is learned to harm the segmentation.

    With c the spectrum of the clean block on the 0..255 scale minus 128, q the table, :math:`\varphi` a rounding that
    lets gradients through and hardens from step to step (`freqbench.ops.quantisation`), and R the linear map that
    stretches every depth slice from its minimum and maximum over H and W to [0, 1]:

    .. math:: a = R\bigl(\mathrm{IDCT}(q \, \varphi(c / q)) + 128\bigr), \qquad
              J = L(f(a), y) - \lambda \, \mathrm{SSIMloss}(x, a)

    q starts at `q_max`; q <- clamp(q + sign(dJ/dq), q_min, q_max). L is `loss`, Dice + cross-entropy by default. The
    SSIM of the blocks is a penalty, not a bound. A sample stops when no voxel is predicted as its label or, with a
    target, when every voxel is. The volume is that of the last forward pass; `state` is the table after the last
    update. With `keep: best` the volume and the table are those of the highest J.

    Args:
        ssim_weight: lambda; 0 leaves the SSIM out.
        q_min: smallest entry of the table; None: 5, in `paper` 1.
        renormalize: true: stretch every slice (threat model `dct-quantization-stretched`); false: divide the
            reconstruction by 255 (`dct-quantization`) and, in `paper` alone, clamp it to [0, 1]; the code of Malik et
            al., BMVC 2024, does not clamp. None: true, in `paper` false.
        control: `none`, or a null row in place of the attack: a table that no gradient shaped, with the rounding of the
            last step. `uniform`: q_max everywhere; `random`: each entry uniform in [q_min, q_max]. The optimisation
            accounts for what the attack achieves beyond its null rows.

    `start`: the table that replaces the draw of `control: random`, `[B, C, N, h, w, d]`.

    Even in the last step the rounding is soft, so the volume lies near the threat model's set, not exactly in it.
    `vafa_opt` searches for the strongest tables of both threat models.

    **Variants.** `released`: the code of VAFA. `released-saa`: its copy in the code of SA2, whose stretching is (v -
    min + 1e-6) / (max - min + 1e-6). `paper`: Algorithm 1; q starts at q_min and so reaches at most q_min + steps, L is
    Dice alone, and the volume is clamped instead of stretched.

    **Differs from the released code**: a slice that is constant after reconstruction, to 1e-6 of the scale, keeps its
    value. The code of VAFA divides 0 by 0 there; its copy in SA2 makes the slice white, and so does `released-saa`
    here. The released code and this one stretch the quantisation noise of a nearly constant slice, such as air beside a
    body, to the whole of [0, 1]. Much of the change and of the loss of accuracy comes from this: compare the null rows.
    Each sample stops by itself, not the whole batch at once.
    """

    name = "vafa"
    budget_name = "q_max"
    variants: ClassVar[tuple[str, ...]] = ("released", "released-saa", "paper")
    per_slice = False
    keeps_best = True

    steps: int = 20
    block: int | tuple[int, ...] = 32
    ssim_weight: float = 1.0
    control: str = "none"
    loss: str | None = None  # type: ignore[assignment]  # None: the loss of the variant
    q_max: float = 20.0
    q_min: float | None = None
    renormalize: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.bounds
        require_together(self.name, {"q_min": low, "q_max": high})
        if self.variant == "paper" and self.control == "none" and high > low + self.steps:
            warnings.warn(
                f"{self.name}: from q_min = {low:g}, {self.steps} steps reach {low + self.steps:g}: "
                f"q_max = {high:g} has no effect in variant paper",
                stacklevel=3,
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the table: q_min and q_max."""
        return Q_MIN[self.variant] if self.q_min is None else self.q_min, self.q_max

    @property
    def stretches(self) -> bool:
        """True if every slice is stretched: `renormalize`, or the variant's default."""
        return self.variant != "paper" if self.renormalize is None else self.renormalize

    @property
    def threat_model(self) -> str:
        """`dct-quantization-stretched`, or without stretching `dct-quantization`."""
        return STRETCHED if self.stretches else "dct-quantization"

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Runs Algorithm 1 of the paper, or makes a null row; returns volumes and their tables in blocked layout."""
        x = task.clean
        (q_min, q_max) = self.bounds
        blocks = Blocks.of(x, self.block, self.per_slice)
        c, volume_of = block_spectrum(x, blocks.sides)  # DCT of the blocks of 255 x - 128
        alphas = alpha_schedule(self.steps)  # the rounding hardens from step to step

        def a(q: Tensor, alpha: float) -> Tensor:  # R(IDCT(q phi(c / q)) + 128)
            return self._on_unit_scale(volume_of(quantisation_error(c, q, alpha)))

        if self.control == "random":
            q = blocks.drawn(task, q_min, q_max)
        else:
            q = blocks.full(q_min if self.variant == "paper" and self.control == "none" else q_max)
        if self.control != "none":
            return a(q, alphas[-1]).clamp(0, 1), blocks.to_blocks(q)

        ascent = Ascent(task, self.keep, price=penalty(self.ssim_weight, lambda: ssim_loss(x, blocks.sides)))
        for alpha in alphas:
            g = ascent.gradient(q, partial(a, alpha=alpha))  # dJ/dq,  J = L(f(a), y) - lambda SSIMloss(x, a)
            q = ascent.move(q, (q + g.sign()).clamp(q_min, q_max))
        volume, q = ascent.result(q)
        return volume.clamp(0, 1), blocks.to_blocks(q)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns how far the table of `state` leaves its bounds; `clean` and `adversarial` volumes are not needed."""
        return outside(state, *self.bounds)

    def _on_unit_scale(self, volume: Tensor) -> Tensor:
        if self.stretches:
            is_offset = self.variant == "released-saa"
            return stretch_slices_offset(volume, 1e-6) if is_offset else stretch_slices(volume, SCALE)
        return (volume / SCALE).clamp(0, 1) if self.variant == "paper" else volume / SCALE


def block_spectrum(clean: Tensor, block: Block) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Returns the DCT of every block of 255 clean - 128, and a function that makes a volume from errors added to it.

    The spectrum is in voxel layout, padded to whole blocks, and so are the errors; the volume is on the 0..255 scale.
    """
    scaled = SCALE * clean
    transform = BlockDCT.of(clean, block)
    spectrum = transform.spectrum(scaled)
    spectrum = spectrum.clone() if spectrum is scaled else spectrum  # as it is for blocks of one voxel
    # Subtracts 128 at DC alone: elsewhere a block of air keeps exact zeros, so stretching magnifies no round-off.
    spectrum[:, :, :: block[0], :: block[1], :: block[2]] -= 128 * math.sqrt(math.prod(block))
    return spectrum, lambda errors: scaled + transform.volume(errors)


@dataclass(frozen=True, kw_only=True)
class VAFA2D(VAFA):
    """`VAFA` on the two-dimensional DCT of every depth slice, without an SSIM term; `block` has one side or two.

    `start` and `state`: `[B, C, D, N, h, w]`. **Variants.** `released`: the code of VAFA; its copies in later code are
    equal to it. `paper`: Algorithm 1 on blocks of a slice. **Differs from the released code** as `VAFA` does. H and W
    may also differ: the released code swaps them when it joins the blocks, and fails.
    """

    name = "vafa_2d"
    variants = ("released", "paper")
    parameters = PARAMETERS | {"block": SLICE_BLOCK}
    per_slice = True
    ssim_weight = 0.0

    steps: int = 10
    block: int | tuple[int, ...] = 8
