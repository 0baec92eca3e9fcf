"""The strongest table of VAFA.  After Hanif et al., MICCAI 2023, arXiv:2307.07269."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.parameters import PARAMETERS, SEARCH, SLICE_BLOCK
from freqbench.attacks.core.searched import BlockSearch, also_ssim, at_ends
from freqbench.attacks.core.task import Task
from freqbench.attacks.vafa import SCALE, STRETCHED, block_spectrum
from freqbench.ops.blocks import tiled
from freqbench.ops.dct import BANDS, BlockDCT, band_mask
from freqbench.ops.quantisation import hard_error, reach
from freqbench.ops.stretching import stretch_slices


@dataclass(frozen=True, kw_only=True)
class VAFAOpt(BlockSearch):
    r"""The most harmful quantisation table in VAFA's threat model.

    With c the spectrum of the clean block on the 0..255 scale minus 128, and a step q in [q_min, q_max] for each
    coefficient, the volume is

    .. math:: a = R\bigl(\mathrm{IDCT}(q \, \mathrm{round}(c / q)) + 128\bigr)

    where R stretches every depth slice to [0, 1] (`dct-quantization-stretched`, as in VAFA's code) or, without
    `renormalize` (`dct-quantization`), divides by 255 and clamps to [0, 1]. Rounding is exact. The errors e = q round(c
    / q) - c that some q makes have a closed form: one or two intervals for each coefficient
    (`freqbench.ops.quantisation`). Auto-PGD moves e along the sign of dL/de, by at most the width of this set, and then
    to the nearest error in it. `start` and `state` are the table q; with `control: uniform` it is q_max everywhere.

    VAFA (Hanif et al., MICCAI 2023, arXiv:2307.07269) moves q itself, by one unit per step, along the derivative of a
    soft rounding, which predicts the error poorly. Its SSIM term is a penalty; `ssim_min` is a bound. A window whose
    SSIM is lower even with the smallest errors raises a UserError.
    """

    name = "vafa_opt"
    budget_name = "q_max"
    parameters = PARAMETERS | SEARCH
    former = 2
    per_slice = False
    num_corners = 7

    q_max: float = 20.0
    q_min: float = 5.0
    block: int | tuple[int, ...] = 32
    renormalize: bool = True
    ssim_min: float | None = None

    @property
    def threat_model(self) -> str:
        """`dct-quantization-stretched`, without stretching `dct-quantization`; `ssim_min` adds the suffix `-ssim`."""
        return also_ssim(STRETCHED if self.renormalize else "dct-quantization", self.ssim_min)

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the table: q_min and q_max."""
        return self.q_min, self.q_max

    def space(self, clean: Tensor) -> Space:
        """Returns the set of all errors that a table can make."""
        blocks = self.blocks(clean)
        # In float64: round-off from the largest coefficients would push small ones over the edge between two multiples.
        spectrum, volume_of = block_spectrum(clean.double(), blocks.sides)
        c = spectrum.to(clean)
        scaled = SCALE * clean
        transform = BlockDCT.of(clean, blocks.sides)
        reachable = reach(c, *self.bounds)
        low, high = reachable.bounds
        return Space(
            centre=(low + high) / 2,
            radius=(high - low) / 2,
            project=reachable.nearest,
            render=lambda e: self._on_unit_scale(scaled + transform.volume(e)),
            state_of=lambda e: blocks.to_blocks(reachable.table(e)),
            point_of=lambda q: hard_error(c, blocks.to_voxels(q)),
            exact=lambda q: self._on_unit_scale(volume_of(hard_error(spectrum, blocks.to_voxels(q)))),
        )

    def corners(self, clean: Tensor, space: Space) -> Iterator[Tensor]:
        """Yields the least errors, all at either bound, and those of tables: q_max everywhere, or in one band alone."""
        yield from super().corners(clean, space)
        blocks = self.blocks(clean)
        for band in ("all", *BANDS):
            inside = tiled(band_mask(band, blocks.sides), space.centre)
            table = self.q_min + (self.q_max - self.q_min) * inside.to(clean).expand_as(space.centre)
            yield space.project(space.point_of(blocks.to_blocks(table)))

    def null_row(self, task: Task, space: Space) -> Tensor:
        """Returns the errors of q_max everywhere; with `random`, draws for each error its lower or its upper bound."""
        if self.control == "random":
            return at_ends(task, space)
        # Projects, because round-off decides which multiple a coefficient halfway between two of them takes.
        blocks = self.blocks(task.clean)
        return space.project(space.point_of(blocks.to_blocks(blocks.full(self.q_max))))

    def made(self, clean: Tensor, state: Tensor) -> Tensor:
        """Makes the volumes of a table, float64, by a DCT of its own."""
        return self._on_unit_scale(self.recomputed(clean, lambda c: (c / state).round() * state, SCALE, middle=128.0))

    def _on_unit_scale(self, volume: Tensor) -> Tensor:
        return stretch_slices(volume, SCALE) if self.renormalize else (volume / SCALE).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class VAFAOpt2D(VAFAOpt):
    """`VAFAOpt` on the two-dimensional DCT of every depth slice; `block` has one side or two."""

    name = "vafa_opt_2d"
    parameters = PARAMETERS | SEARCH | {"block": SLICE_BLOCK}
    per_slice = True

    block: int | tuple[int, ...] = 8
