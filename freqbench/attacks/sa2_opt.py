"""The strongest multipliers of SA2.  After Hanif et al., ISBI 2025."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.parameters import PARAMETERS, SEARCH, SLICE_BLOCK
from freqbench.attacks.core.searched import BlockSearch, also_ssim, at_ends
from freqbench.attacks.core.task import Task
from freqbench.attacks.sa2 import WITH_DC, band_scaler
from freqbench.ops.blocks import tiled
from freqbench.ops.dct import BANDS, band_mask


@dataclass(frozen=True, kw_only=True)
class SA2Opt(BlockSearch):
    r"""The most harmful multipliers of DCT coefficients in SA2's threat model.

    With c the spectrum of the clean block minus 0.5, and a multiplier m in [1 - rho, 1 + rho] for each coefficient (1
    at DC and outside `band`, `freqbench.ops.dct`), the volume is

    .. math:: a = \mathrm{IDCT}(c \, m) + 0.5

    clamped to [0, 1]. Auto-PGD moves m between its bounds (`freqbench.attacks.apgd`); `start` and `state` are m; with
    `control: uniform` every multiplier is 1 - rho. The threat model is that of SA2 (Hanif et al., ISBI 2025).

    **Variants.** `released`: DC is exempt, as in the code of SA2: threat model `dct-scaling`. `paper`: DC moves too,
    because the paper does not exempt it: `dct-scaling-with-dc`.
    """

    name = "sa2_opt"
    budget_name = "rho"
    parameters = PARAMETERS | SEARCH
    former = 2
    per_slice = False
    num_corners = 9

    rho: float = 0.4
    block: int | tuple[int, ...] = 16
    band: str = "all"
    ssim_min: float | None = None

    @property
    def threat_model(self) -> str:
        """`dct-scaling`, in `paper` `dct-scaling-with-dc`; `ssim_min` adds the suffix `-ssim`."""
        return also_ssim(WITH_DC if self.variant == "paper" else "dct-scaling", self.ssim_min)

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the multipliers: 1 - rho and 1 + rho."""
        return 1 - self.rho, 1 + self.rho

    def space(self, clean: Tensor) -> Space:
        """Returns the box of multipliers."""
        blocks = self.blocks(clean)
        volume_of = band_scaler(clean, blocks.sides, self.band, with_dc=self.variant == "paper")

        def exact(m: Tensor) -> Tensor:
            volume_of = band_scaler(clean.double(), blocks.sides, self.band, with_dc=self.variant == "paper")
            return volume_of(blocks.to_voxels(m.double())).clamp(0, 1)

        centre = blocks.full(1.0)
        radius = clean.new_tensor(self.rho)
        return Space(
            centre=centre,
            origin=1.0,
            radius=radius,
            project=lambda m: m.clamp(*self.bounds),
            render=lambda m: volume_of(m).clamp(0, 1),
            state_of=blocks.to_blocks,
            point_of=blocks.to_voxels,
            exact=exact,
        )

    def ways(self, clean: Tensor, space: Space) -> Iterator[Tensor]:
        """Yields all multipliers together and each band alone."""
        yield from super().ways(clean, space)
        sides = self.blocks(clean).sides
        yield from (tiled(band_mask(band, sides), space.centre) for band in BANDS)

    def null_row(self, task: Task, space: Space) -> Tensor:
        """Returns 1 - rho everywhere, or each multiplier at its lower or upper bound, by a draw."""
        if self.control == "random":
            return at_ends(task, space)
        return space.project(torch.full_like(space.centre, self.bounds[0]))

    def made(self, clean: Tensor, state: Tensor) -> Tensor:
        """Makes the volumes of multipliers, float64, by a DCT of its own."""
        sides = state.shape[4:] if self.per_slice else state.shape[3:]
        h, w, d = (*sides, 1)[:3]
        free = band_mask(self.band, (h, w, d))
        free[0, 0, 0] &= self.variant == "paper"
        m = torch.where(free.reshape(sides).to(state.device), state.double(), 1.0)
        return self.recomputed(clean, lambda c: m * c, 1.0, middle=0.5).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class SA2Opt2D(SA2Opt):
    """`SA2Opt` on the two-dimensional DCT of every depth slice, with a block of one side or two."""

    name = "sa2_opt_2d"
    parameters = PARAMETERS | SEARCH | {"block": SLICE_BLOCK}
    per_slice = True
