"""Finds the strongest tables of VAFA and multipliers of SA2 that their bounds allow."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from torch import Tensor

from freqbench.attacks.apgd import Space, search
from freqbench.attacks.core.base import SLACK
from freqbench.attacks.core.best import across
from freqbench.attacks.core.frequency import StateAttack
from freqbench.attacks.core.parameters import (
    PARAMETERS,
    SCOPES,
    SEARCH,
    SLICE_BLOCK,
    ByParameters,
)
from freqbench.attacks.core.task import Task
from freqbench.attacks.sa2 import WITH_DC, band_scaler
from freqbench.attacks.vafa import SCALE, STRETCHED, block_spectrum
from freqbench.core.errors import UserError
from freqbench.ops.bands import band_mask
from freqbench.ops.blocks import Block
from freqbench.ops.dct import BlockDCT
from freqbench.ops.quantisation import hard_error, reach
from freqbench.ops.ssim import body_ssim
from freqbench.ops.stretching import stretch_slices

FloatArray = NDArray[np.float64]

HALVINGS = 8  # of the line to the origin
FLAT = -1e-12  # the slope of the SSIM nearest to 0 that may be a divisor
SSIM_SUFFIX = "-ssim"  # suffix of a threat model that also bounds the SSIM


def _bounded_set_or(usual: str) -> ByParameters:
    return ByParameters(usual, lambda attack: attack.bounded_set + ("" if attack.ssim_min is None else SSIM_SUFFIX))


@dataclass(frozen=True)
class FrequencySpace(Space):
    """A space whose points come from a state: a table of steps, or multipliers."""

    origin: Tensor  # the point of no change, which the threat model may not allow
    state_of: Callable[[Tensor], Tensor] = lambda point: point  # the state that makes a point, within the bounds
    point_of: Callable[[Tensor], Tensor] = lambda state: state  # the point that a state makes


@dataclass(frozen=True, kw_only=True)
class FrequencyAPGD(StateAttack):
    """Projected steps on one number for each DCT coefficient, limited by the bounds alone.

    The search is Auto-PGD's, with `step_rule: cosine` by default (`freqbench.attacks.apgd.search`); reports/strongest
    explains the choice of rule, loss and steps. An author writes `space`, `changed`, `on_unit_scale`, `bounds`,
    `null_end`, `scale` and `middle`.

    Args:
        steps: gradient steps; one forward and one backward pass each, plus one forward pass for the last volume.
        random_start: begin at a uniform draw between the bounds; false: begin halfway between them.
        control: `none`, or a null row instead of the attack, without a gradient: `uniform`, the bound at index
            `null_end` everywhere; `random`, each number at its lower or upper bound, by a draw.
        ssim_min: the least SSIM of a sample with the clean one inside the body (`freqbench.ops.ssim.body_ssim`), which
            adds `-ssim` to the threat model; points shrink towards no change until they meet it (`within_ssim`).
    """

    parameters = PARAMETERS | SEARCH
    scopes = SCOPES
    revision = 2
    null_end: ClassVar[int]
    scale: ClassVar[float]  # of the intensities whose spectrum is changed
    middle: ClassVar[float]  # that is subtracted from them

    steps: int = 20
    block: int | tuple[int, ...] = 32
    random_start: bool = True
    control: str = "none"
    ssim_min: float | None = None
    step_rule: str = "cosine"
    loss: str = "switch"
    keep: str = "best"
    scope: str = "joint"

    @property
    @abstractmethod
    def bounded_set(self) -> str:
        """Threat model without a bound on the SSIM."""

    @abstractmethod
    def space(self, clean: Tensor, block: Block) -> FrequencySpace:
        """Returns the set of points to search; computes here all that is constant, such as the spectrum."""

    @abstractmethod
    def changed(self, spectrum: FloatArray, state: FloatArray) -> FloatArray:
        """Returns the spectrum that a state makes of the clean one; all three in blocked layout."""

    @abstractmethod
    def on_unit_scale(self, volume: Tensor) -> Tensor:
        """Returns the volume in [0, 1]."""

    def perturb(self, task: Task) -> Tensor:
        """Stores the state of the best point of all runs, or of the null row, and returns its volumes."""
        padded = self.padded(task.clean)
        space = self.space(task.clean, self.cut(padded.shape[2:]))
        bounded = self._bounded(task.clean, space)
        if self.control == "none":
            seen = replace(space, render=lambda x: space.render(bounded(x)))
            x = self.run_to_best(
                task, lambda: search(task, seen, self._start(task, space, padded), *self.way), seen.render
            )
        elif self.control == "uniform":
            # Projected, because rounding decides about a coefficient halfway between two multiples.
            x = space.project(space.point_of(torch.full_like(padded, self.bounds[self.null_end])))
        else:
            ends = 2 * task.draw(torch.rand, padded.shape[1:]).round() - 1
            x = space.project(space.centre + space.radius * ends)
        with torch.no_grad():
            state = space.state_of(bounded(x))
            task.state = self.to_blocks(state)
            # In float64, so that another arithmetic makes the same volume of the state.
            exact = self.space(task.clean.double(), self.cut(padded.shape[2:]))
            return exact.render(exact.point_of(state.double())).to(task.clean)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the largest excess: state over bounds, volumes over those of the state, SSIM below `ssim_min`."""
        outside = super().excess(clean, adversarial, state)
        if state is None:
            return outside
        with torch.no_grad():
            outside = max(outside, float((self.made(clean, state) - adversarial).abs().max()))
        if self.ssim_min is None:
            return outside
        return max(outside, self.ssim_min - float(body_ssim(clean)(adversarial).min()))

    def made(self, clean: Tensor, state: Tensor) -> Tensor:
        """Makes the volume of a state, float64, by SciPy's DCT: a check on the arithmetic of the search."""
        padded = self.padded(clean.double())
        blocks = self.to_blocks(padded).cpu().numpy()
        axes = tuple(range(4 if self.per_slice else 3, blocks.ndim))
        spectrum = dctn(blocks * self.scale - self.middle, axes=axes, norm="ortho")
        changed = self.changed(spectrum, state.double().cpu().numpy())
        volume = torch.from_numpy(idctn(changed, axes=axes, norm="ortho") + self.middle).to(clean.device)
        h, w, d = clean.shape[2:]
        return self.on_unit_scale(self.to_voxels(volume, padded.shape[2:])[:, :, :h, :w, :d])

    def _bounded(self, clean: Tensor, space: FrequencySpace) -> Callable[[Tensor], Tensor]:
        """Returns a function of points: the identity, or the move to a point that keeps `ssim_min`."""
        if self.ssim_min is None:
            return lambda x: x
        return within_ssim(self.name, clean, self.ssim_min, space.origin, space.project, space.render)

    def _start(self, task: Task, space: FrequencySpace, padded: Tensor) -> Tensor:
        state = self.given_state(task)
        if state is not None:
            return space.point_of(state)
        drawn = 2 * task.draw(torch.rand, padded.shape[1:]) - 1 if self.random_start else torch.zeros_like(padded)
        return space.centre + space.radius * drawn


@dataclass(frozen=True, kw_only=True)
class VAFAOpt(FrequencyAPGD):
    r"""The most harmful quantisation table in VAFA's threat model.

    With c the spectrum of the clean block on the 0..255 scale minus 128, and a step q in [q_min, q_max] for each
    coefficient, the volume is

    .. math:: a = R\bigl(\mathrm{IDCT}(q \, \mathrm{round}(c / q)) + 128\bigr)

    where R stretches every depth slice to [0, 1] (`dct-quantization-stretched`, as in VAFA's code) or, without
    `renormalize` (`dct-quantization`), divides by 255 and clamps to [0, 1]. Rounding is exact. The errors e = q round(c
    / q) - c that some q makes are a set in closed form, one or two intervals for each coefficient
    (`freqbench.ops.quantisation`). Auto-PGD moves e in this set: along the sign of dL/de by at most the width of the
    set, then to the nearest error that some q makes. `start` and `state` are the table q; with `control: uniform` it is
    q_max everywhere.

    VAFA (Hanif et al., MICCAI 2023, arXiv:2307.07269) moves q itself, by one unit per step, along the derivative of a
    soft rounding, which predicts the error poorly. Its SSIM term is a penalty; `ssim_min` is a bound: if even the table
    of the smallest errors has a lower SSIM in a window, a UserError is raised.
    """

    name = "vafa_opt"
    threat_model = _bounded_set_or("dct-quantization")
    budget_name = "q_max"
    null_end = 1
    scale, middle = SCALE, 128.0

    q_max: float = 20.0
    q_min: float = 5.0
    renormalize: bool = True

    @property
    def bounded_set(self) -> str:
        """Threat model with or without the stretching."""
        return STRETCHED if self.renormalize else "dct-quantization"

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the table: q_min and q_max."""
        return self.q_min, self.q_max

    def space(self, clean: Tensor, block: Block) -> FrequencySpace:
        """Returns the set of all errors that a table can make."""
        # Exact, as its largest coefficients would round the small ones over the edge between two multiples.
        spectrum = block_spectrum(clean.double(), block)[0].to(clean)
        scaled, transform = SCALE * clean, BlockDCT.of(clean, block)
        reachable = reach(spectrum, *self.bounds)
        low, high = reachable.bounds
        return FrequencySpace(
            centre=(low + high) / 2,
            radius=(high - low) / 2,
            origin=torch.zeros_like(spectrum),
            project=reachable.nearest,
            render=lambda error: self.on_unit_scale(scaled + transform.volume(error)),
            state_of=reachable.table,
            point_of=lambda table: hard_error(spectrum, table),
        )

    def changed(self, spectrum: FloatArray, state: FloatArray) -> FloatArray:
        """Returns the quantised spectrum."""
        return np.round(spectrum / state) * state

    def on_unit_scale(self, volume: Tensor) -> Tensor:
        """Stretches the slices of a volume on the 0..255 scale, or divides by 255 and clamps."""
        return stretch_slices(volume, SCALE) if self.renormalize else (volume / SCALE).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class VAFAOpt2D(VAFAOpt):
    """`VAFAOpt` on the two-dimensional DCT of every depth slice, with a block of one side or two."""

    name = "vafa_opt_2d"
    parameters = PARAMETERS | SEARCH | {"block": SLICE_BLOCK}
    per_slice = True

    block: int | tuple[int, ...] = 8


@dataclass(frozen=True, kw_only=True)
class SA2Opt(FrequencyAPGD):
    r"""The most harmful multipliers of DCT coefficients in SA2's threat model.

    With c the spectrum of the clean block minus 0.5, and a multiplier m in [1 - rho, 1 + rho] for each coefficient (1
    at DC and outside `band`, `freqbench.ops.bands`), the volume is

    .. math:: a = \mathrm{IDCT}(c \, m) + 0.5

    clamped to [0, 1]. Auto-PGD moves m between its bounds (`freqbench.attacks.apgd`); `start` and `state` are m; with
    `control: uniform` every multiplier is 1 - rho. The threat model is that of SA2 (Hanif et al., ISBI 2025).

    **Variants.** `released`: DC is exempt, as in the code of SA2: threat model `dct-scaling`. `paper`: DC moves too,
    because the paper does not exempt it: `dct-scaling-with-dc`.
    """

    name = "sa2_opt"
    threat_model = _bounded_set_or("dct-scaling")
    budget_name = "rho"
    null_end = 0
    scale, middle = 1.0, 0.5

    rho: float = 0.4
    block: int | tuple[int, ...] = 16
    band: str = "all"

    @property
    def bounded_set(self) -> str:
        """Threat model with or without DC."""
        return WITH_DC if self.variant == "paper" else "dct-scaling"

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the multipliers: 1 - rho and 1 + rho."""
        return 1 - self.rho, 1 + self.rho

    def space(self, clean: Tensor, block: Block) -> FrequencySpace:
        """Returns the box of multipliers."""
        scale = band_scaler(clean, block, self.band, with_dc=self.variant == "paper")
        return FrequencySpace(
            centre=clean.new_ones(()),
            origin=clean.new_ones(()),
            radius=clean.new_tensor(self.rho),
            project=lambda multipliers: multipliers.clamp(*self.bounds),
            render=lambda multipliers: scale(multipliers).clamp(0, 1),
        )

    def changed(self, spectrum: FloatArray, state: FloatArray) -> FloatArray:
        """Returns the scaled spectrum."""
        sides = state.shape[4:] if self.per_slice else state.shape[3:]
        h, w, d = (*sides, 1)[:3]
        free = band_mask(self.band, (h, w, d))
        free[0, 0, 0] &= self.variant == "paper"
        return np.where(free.reshape(sides).numpy(), state, 1.0) * spectrum

    def on_unit_scale(self, volume: Tensor) -> Tensor:
        """Clamps to [0, 1]."""
        return volume.clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class SA2Opt2D(SA2Opt):
    """`SA2Opt` on the two-dimensional DCT of every depth slice, with a block of one side or two."""

    name = "sa2_opt_2d"
    parameters = PARAMETERS | SEARCH | {"block": SLICE_BLOCK}
    per_slice = True


def within_ssim(
    name: str,
    clean: Tensor,
    ssim_min: float,
    origin: Tensor,
    project: Callable[[Tensor], Tensor],
    render: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    r"""Returns a function that moves points `[B, ...]` to the origin until their volumes' SSIM is at least `ssim_min`.

    With o the origin, P the projection and S the SSIM of a point's volume with the clean one, x becomes P(o + t (x -
    o)). t is the largest number in [0, 1] at which S is still at least `ssim_min`, found to 1/256 by bisection. As t
    depends on x, the gradient has a term for it: with g the gradient at the new point, s that of S, P as if it were the
    identity, and t below 1,

    .. math:: \frac{dL}{dx} = t \Bigl(g - \frac{g \cdot (x - o)}{s \cdot (x - o)} \, s\Bigr),

    the gradient of the Lagrangian L + lambda S with the lambda that leaves nothing to gain along the line. Without the
    second term an attack spends its SSIM budget where it gains little: SA2's multipliers on the phantom's UNet, 20
    steps at 0.95, leave 59 % Dice instead of 38 %. P(o) is the mildest point; if even its SSIM is too low, a UserError
    is raised in the attack's name.
    """
    similarity = body_ssim(clean)

    def inside(x: Tensor, share: Tensor) -> Tensor:
        return project(origin + across(share, x) * (x - origin))

    def bounded(x: Tensor) -> Tensor:
        with torch.no_grad():
            low, high = x.new_zeros(len(x)), x.new_ones(len(x))
            share = high
            for _ in range(HALVINGS + 1):
                holds = similarity(render(inside(x, share))) >= ssim_min
                low, high = torch.where(holds, share, low), torch.where(holds, high, share)
                share = (low + high) / 2
            point = inside(x, low)
        if not x.requires_grad:
            return point
        at = point.requires_grad_()
        (s,) = torch.autograd.grad(similarity(render(at)).sum(), at)
        away, moved = (x - origin).detach(), x - x.detach()  # moved is 0 and brings the derivative
        slope = (s * away).flatten(1).sum(dim=1).clamp(max=FLAT)
        change = -low * (s * moved).flatten(1).sum(dim=1) / slope
        shorter = torch.where((low < 1) & (slope < FLAT), change, 0.0)
        return point.detach() + across(low, x) * moved + across(shorter, x) * away

    with torch.no_grad():
        mildest = float(similarity(render(project(origin))).min())
    if mildest < ssim_min - SLACK:
        most = math.floor(1e4 * mildest) / 1e4
        raise UserError(
            f"{name}: ssim_min: expected at most {most:.4f}, which the mildest volume of the threat model has in this "
            f"window, got {ssim_min:g}: lower it"
        )
    return bounded
