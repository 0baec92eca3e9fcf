"""SSA, the spectrum simulation attack.  Long et al., ECCV 2022, arXiv:2207.05382."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.core.attack import LinfAttack
from freqbench.attacks.core.blocks import Blocks
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import PARAMETERS, SLICE_BLOCK, SPREAD
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.dct import BlockDCT
from freqbench.ops.projections import linf_ball

Draws = Callable[[int, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class SSA(GradientAttack, LinfAttack):
    r"""PGD along a gradient averaged over random spectra of the volume, which simulate other networks.

    .. math:: t_n = \mathrm{IDCT}\bigl(\mathrm{DCT}(x + \xi) \, m\bigr), \quad \xi \sim N(0, eps^2), \quad
              m \sim U(1 - rho, 1 + rho), \qquad
              x \leftarrow P\Bigl(x + \frac{eps}{T} \, \mathrm{sign} \frac1N \sum_n \nabla L(t_n)\Bigr)

    in T steps from the clean volume; P projects onto the eps-ball and [0, 1]. The gradient is taken at the transformed
    volume and not propagated through the transform, as in the authors' code; the network sees t_n unclamped. L is
    `loss`, Dice + cross-entropy by default, a classifier's cross-entropy in the paper. Volumes are compared before any
    transform: with `keep: best` a step costs one more forward pass.

    Args:
        eps: radius on the [0, 1] intensity scale, and standard deviation of the noise.
        steps: T; each step takes `num_spectra` forward and as many backward passes.
        rho: how far the random factors of a spectrum may leave 1, in [0, 1).
        num_spectra: N; None: 20.
        block: side of the DCT block in voxels, or three sides; 96 covers a whole window of the papers. A window that
            blocks do not tile is padded by reflection.

    `start`: the draws of all passes, `gauss` standard normals `[steps, N, B, C, H, W, D]` and `unif` in [0, 1) in
    blocked layout `[steps, N, B, C, blocks, h, w, d]`.

    **Differs from the paper**: the transform is in three dimensions, and of blocks if `block` is shorter than the
    window: DC is multiplied too, which then changes the brightness of each block, not of the whole.
    """

    name = "ssa"
    is_stochastic = True
    per_slice = False
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    parameters = PARAMETERS | {"rho": SPREAD}

    eps: float = 16 / 255
    steps: int = 10
    rho: float = 0.5
    num_spectra: int | None = None
    block: int | tuple[int, ...] = 96
    variant: str = "paper"

    @property
    def spectra(self) -> int:
        """Number N of spectra that a step averages."""
        return 20 if self.num_spectra is None else self.num_spectra

    @property
    def run_passes(self) -> tuple[int, int]:
        """One forward and one backward pass per spectrum; with `keep: best` one more forward pass per step."""
        passes = self.steps * self.spectra
        return passes + (self.steps if self.keep == "best" else 0), passes

    @property
    def grey(self) -> float:
        """Intensity subtracted before the transform; the factor of DC leaves this intensity unchanged."""
        return 0.0

    def carried(self, x: Tensor) -> Tensor:
        """Returns the volume that the next spectrum starts from: here the same one."""
        return x

    def run(self, task: Task) -> Tensor:
        """Runs the paper's iteration."""
        project = linf_ball(task.clean, self.eps)
        x = task.clean
        blocks = Blocks.of(task.clean, self.block, self.per_slice)
        draws = self._draws(task, blocks)
        transform = BlockDCT.of(x, blocks.sides)
        for i in range(self.steps):
            if task.passes.best is not None:
                task.look(x)
            total = torch.zeros_like(x)
            for n in range(self.spectra):
                noise, factors = draws(i, n)
                shown = transform.volume(transform.spectrum(x + noise - self.grey) * factors) + self.grey
                total += task.gradient(shown, task.loss)  # objective given, because `shown` is no volume to keep
                x = self.carried(x)
            x = project(x + self.eps / self.steps * total.sign())
        return x

    def _draws(self, task: Task, blocks: Blocks) -> Draws:
        """Returns a function of step and spectrum to the noise and the factors, in voxel layout."""
        first = task.clean.movedim(4, 2) if self.per_slice else task.clean
        layouts = {"gauss": tuple(first.shape[1:]), "unif": blocks.layout()}
        start = self._start_draws(task, layouts)

        def draw(i: int, n: int) -> tuple[Tensor, Tensor]:
            if start is None:
                gauss = task.draw(torch.randn, layouts["gauss"])
                unif = task.draw(torch.rand, layouts["unif"])
            else:
                gauss, unif = (start[name][i, n].to(task.clean) for name in layouts)
            noise = self.eps * (gauss.movedim(2, 4) if self.per_slice else gauss)
            return noise, 1 - self.rho + 2 * self.rho * blocks.to_voxels(unif)

        return draw

    def _start_draws(self, task: Task, layouts: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor] | None:
        if task.given.start is None:
            return None
        batch = self.steps, self.spectra, len(task.clean)
        expected = {name: (*batch, *layout) for name, layout in layouts.items()}
        draws = task.given.start if isinstance(task.given.start, Mapping) else {}
        shapes = {name: tuple(tensor.shape) for name, tensor in draws.items()}
        if shapes != expected:
            got = shapes or type(task.given.start).__name__
            raise UserError(f"{self.name}: expected a start of draws of shapes {expected}, got {got}")
        return draws


@dataclass(frozen=True, kw_only=True)
class SSA2D(SSA):
    """`SSA` on the two-dimensional DCT of every depth slice; `block` has one side or two.

    `start`: the draws of all passes in slices, `gauss` `[steps, N, B, C, D, H, W]` and `unif` `[steps, N, B, C, D,
    blocks, h, w]`. `num_spectra` None: 20, in `released` 10.

    **Variants.** `paper` is the default. `released`: the code released with SA2 (Hanif et al., ISBI 2025), with its
    defect: bringing the depth axis to the front rotates the axes of the running volume itself, once per spectrum, and
    nothing rotates them back. Gradients are taken at volumes rotated ever further under labels that are not, and summed
    unchanged; if N is no multiple of 3, the ball's bounds are those of other voxels, and the volume ends rotated N *
    steps times. Windows have to be cubes; channels that are not attacked do not rotate. It also transforms the volume
    minus 128/255.

    **Differs from the released code**: no early stop, which costs one pass per step and evaluates rotated predictions.
    """

    name = "ssa_2d"
    variants = ("paper", "released")
    parameters = SSA.parameters | {"block": SLICE_BLOCK}
    per_slice = True

    @property
    def spectra(self) -> int:
        """Number N of spectra that a step averages: by default 20, in `released` 10."""
        return 10 if self.num_spectra is None and self.variant == "released" else super().spectra

    @property
    def grey(self) -> float:
        """Intensity subtracted before the transform: middle grey in `released`, else 0."""
        return 128 / 255 if self.variant == "released" else 0.0

    def carried(self, x: Tensor) -> Tensor:
        """Returns the volume; in `released` with the depth axis in front, which the next spectrum takes for H."""
        return x.movedim(4, 2) if self.variant == "released" else x

    def prepare(self, task: Task) -> None:
        """Sets up the task as any gradient attack; raises a UserError if `released` gets a window that is no cube."""
        shape = task.clean.shape[2:]
        if self.variant == "released" and len(set(shape)) > 1:
            got = "x".join(map(str, shape))
            raise UserError(f"{self.name}: released turns windows: expected equal sides, got {got}: use variant paper")
        super().prepare(task)
