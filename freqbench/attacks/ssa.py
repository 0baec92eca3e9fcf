"""SSA, the spectrum simulation attack.  Long et al., ECCV 2022, arXiv:2207.05382."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.base import LinfAttack
from freqbench.attacks.parameters import PARAMETERS, SLICE_BLOCK, SPREAD, Parameter
from freqbench.attacks.task import Task
from freqbench.errors import UserError
from freqbench.ops.blocks import Block, cut_block, merge, pad_to_blocks, split
from freqbench.ops.dct import dct, dct_matrices, idct
from freqbench.ops.projections import linf_ball

Draws = Callable[[int, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class SSA(LinfAttack):
    r"""PGD along a gradient that is averaged over random spectra of the volume, which stand for other networks.

    .. math:: t_n = \mathrm{IDCT}\bigl(\mathrm{DCT}(x + \xi) \, m\bigr), \quad \xi \sim N(0, eps^2), \quad
              m \sim U(1 - rho, 1 + rho), \qquad
              x \leftarrow P\Bigl(x + \frac{eps}{T} \, \mathrm{sign} \frac1N \sum_n \nabla L(t_n)\Bigr)

    in T steps from the clean volume; P projects onto the eps-ball and [0, 1]. The gradient is the one at the
    transformed volume, not led back through the transform, as in the authors' code. The network sees t_n unclamped.
    L is the Dice + cross-entropy of `freqbench.ops.losses.dice_ce`, a classifier's cross-entropy in the paper.

    Args:
        eps: radius on the [0, 1] intensity scale, and standard deviation of the noise.
        steps: T; `num_spectra` forward and as many backward passes each.
        rho: how far the random factors of a spectrum may leave 1, in [0, 1).
        num_spectra: N; None: 20.
        block: side of the DCT block in voxels, or three; a window that blocks do not tile is continued by reflection.

    `start`: the draws of all passes, `gauss` standard normals `[steps, N, B, 1, H, W, D]` and `unif` in [0, 1) in
    blocked layout `[steps, N, B, 1, blocks, h, w, d]`.

    **Differs from the paper**: the transform is in three dimensions and of blocks, DC included, where the paper takes
    the DCT of a whole slice: a block as long as the window is that in three dimensions.
    """

    name: ClassVar[str] = "ssa"
    order: ClassVar[tuple[int, ...]] = (0, 1, 2, 3, 4)
    back: ClassVar[tuple[int, ...]] = (0, 1, 2, 3, 4)
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    parameters: ClassVar[Mapping[str, Parameter]] = {**PARAMETERS, "rho": SPREAD}

    eps: float = 16 / 255
    steps: int = 10
    rho: float = 0.5
    num_spectra: int | None = None
    block: int | tuple[int, ...] = 16
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.block, int):
            # One spelling of a block, as attacks are told apart by their parameters.
            sides = tuple(self.block)
            object.__setattr__(self, "block", sides[0] if len(set(sides)) == 1 else sides)

    @property
    def spectra(self) -> int:
        """N: how many spectra a step averages."""
        return 20 if self.num_spectra is None else self.num_spectra

    @property
    def passes(self) -> tuple[int, int]:
        """One of each a spectrum."""
        return self.steps * self.spectra, self.steps * self.spectra

    @property
    def is_stochastic(self) -> bool:
        """Noise and factors are drawn in every pass."""
        return True

    def perturb(self, task: Task) -> Tensor:
        """The paper's iteration."""
        project = linf_ball(task.clean, self.eps)
        draws = self._draws(task)
        x = task.clean
        for i in range(self.steps):
            total = torch.zeros_like(x)
            for n in range(self.spectra):
                simulated = self._simulate(x.permute(self.order), *draws(i, n))
                total += task.gradient(simulated.permute(self.back))
                x = self.carried(x)
            x = project(x + self.eps / self.steps * total.sign())
        return x

    def sides(self, shape: Sequence[int]) -> Block:
        """The block in the order of axes in which volumes are transformed.

        Args:
            shape: the window's, in that order.
        """
        return cut_block(self.block, shape)

    def layout(self, padded: Tensor, block: Block) -> tuple[int, ...]:
        """The blocked layout of a sample's factors.

        Args:
            padded: a volume that blocks tile, in the order of axes in which it is transformed.
            block: from `sides`.
        """
        return tuple(split(padded, block).shape[1:])

    @property
    def grey(self) -> float:
        """What is taken off the intensities before the transform: the one that the factor of DC leaves alone."""
        return 0.0

    def carried(self, x: Tensor) -> Tensor:
        """What a spectrum leaves for the next: the volume as it was."""
        return x

    def _simulate(self, x: Tensor, gauss: Tensor, factors: Tensor) -> Tensor:
        """The volume with noise and with its spectrum multiplied; all in the transform's order of axes."""
        shape = x.shape[2:]
        matrices = dct_matrices(self.sides(shape), x)
        padded = pad_to_blocks(x + self.eps * gauss - self.grey, self.sides(shape))
        volume = idct(dct(padded, matrices) * factors, matrices) + self.grey
        return volume[:, :, : shape[0], : shape[1], : shape[2]]

    def _draws(self, task: Task) -> Draws:
        """A function of step and spectrum: the standard normals of the noise, and the factors in voxel layout."""
        turned = task.clean.permute(self.order)
        block = self.sides(turned.shape[2:])
        padded = pad_to_blocks(turned, block)
        layouts = {"gauss": tuple(turned.shape[1:]), "unif": self.layout(padded, block)}
        given = self._given(task, layouts)

        def draw(i: int, n: int) -> tuple[Tensor, Tensor]:
            if given is None:
                gauss, unif = (task.draw(torch.randn, layouts["gauss"]), task.draw(torch.rand, layouts["unif"]))
            else:
                gauss, unif = (given[name][i, n].to(task.clean) for name in layouts)
            unif = merge(unif.reshape(len(turned), 1, -1, *block), padded.shape[2:])
            return gauss, 1 - self.rho + 2 * self.rho * unif

        return draw

    def _given(self, task: Task, layouts: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor] | None:
        """The `start` of the call, checked, or None."""
        if task.start is None:
            return None
        batch = self.steps, self.spectra, len(task.clean)
        expected = {name: (*batch, *layout) for name, layout in layouts.items()}
        given = task.start if isinstance(task.start, Mapping) else {}
        found = {name: tuple(tensor.shape) for name, tensor in given.items()}
        if found != expected:
            got = found or type(task.start).__name__
            raise UserError(f"{self.name}: expected a start of draws of shapes {expected}, got {got}")
        return given


@dataclass(frozen=True, kw_only=True)
class SSA2D(SSA):
    """`SSA` on the two-dimensional DCT of every depth slice.

    Args:
        num_spectra: spectra averaged at every step; None: 20, in `released` 10.
        block: side of the DCT block of a slice in voxels, or two.

    `start`: the draws of all passes in slices, `gauss` `[steps, N, B, 1, D, H, W]` and `unif`
    `[steps, N, B, 1, D, blocks, h, w]`.

    **Variants.** `paper` is the default. `released`: the code released with SA2 (Hanif et al., ISBI 2025), with its
    defect: bringing the depth axis to the front turns the running volume itself, once a spectrum, and nothing turns it
    back. Gradients are taken at volumes that are turned ever further under labels that are not, and summed as they are;
    where N is no multiple of 3, the bounds of the ball are those of other voxels, and the volume comes out turned by
    N * steps. Windows have to be cubes. It also takes 128/255 off before the transform and adds it after.

    **Differs from the released code**: no early stop, which costs a pass a step and looks at turned predictions; blocks
    of 16, not 96.
    """

    name: ClassVar[str] = "ssa_2d"
    variants: ClassVar[tuple[str, ...]] = ("paper", "released")
    parameters: ClassVar[Mapping[str, Parameter]] = {**SSA.parameters, "block": SLICE_BLOCK}
    order: ClassVar[tuple[int, ...]] = (0, 1, 4, 2, 3)
    back: ClassVar[tuple[int, ...]] = (0, 1, 3, 4, 2)

    @property
    def spectra(self) -> int:
        """N: 20, in `released` 10, unless given."""
        return 10 if self.num_spectra is None and self.variant == "released" else super().spectra

    @property
    def grey(self) -> float:
        """Middle grey in `released`."""
        return 128 / 255 if self.variant == "released" else 0.0

    def perturb(self, task: Task) -> Tensor:
        """The iteration of SSA.

        Raises:
            UserError: `released` is to turn a window that is no cube.
        """
        shape = task.clean.shape[2:]
        if self.variant == "released" and len(set(shape)) > 1:
            got = "x".join(map(str, shape))
            raise UserError(f"ssa_2d: released turns windows: expected equal sides, got {got}: use variant paper")
        return super().perturb(task)

    def sides(self, shape: Sequence[int]) -> Block:
        """A block of one slice."""
        h, w = (self.block, self.block) if isinstance(self.block, int) else self.block
        return cut_block((1, h, w), shape)

    def layout(self, padded: Tensor, block: Block) -> tuple[int, ...]:
        """The blocks of every slice by themselves."""
        _, _, count, _, h, w = split(padded[:, :, :1], block).shape
        return 1, padded.shape[2], count, h, w

    def carried(self, x: Tensor) -> Tensor:
        """In `released`, turned as the transform turned it."""
        return x.permute(self.order) if self.variant == "released" else x
