"""Natural corruptions in five severities.  After Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from freqbench.attacks.core.base import Attack
from freqbench.attacks.core.parameters import PARAMETERS, Parameter
from freqbench.attacks.core.task import Task
from freqbench.core.errors import unknown
from freqbench.ops.degrading import blurred, coarser, unevenly_lit
from freqbench.ops.kspace import with_ghosts, with_motion, with_spikes
from freqbench.ops.tomography import ANGLES, metal_streaks, num_bins, reconstructed_noise

MOVES = 4
SPIKES = 2
SPIKE_FREQUENCIES = (0.1, 0.4)  # cycles a voxel: the wave is neither a slope nor a chequerboard
RODS = 2
ROD_RADIUS = 0.025  # of the slice's shorter side

Draw = Callable[..., Tensor]


def _gaussian_noise(x: Tensor, size: float, draw: Draw) -> Tensor:
    return x + size * draw(torch.randn)


def _rician_noise(x: Tensor, size: float, draw: Draw) -> Tensor:
    return torch.hypot(x + size * draw(torch.randn), size * draw(torch.randn))


def _bias_field(x: Tensor, size: float, draw: Draw) -> Tensor:
    seeds = (draw(torch.rand, (1,))[:, 0] * 2**24).long().tolist()
    return torch.stack([unevenly_lit(volume, size, seed) for volume, seed in zip(x, seeds, strict=True)])


def _motion(x: Tensor, size: float, draw: Draw) -> Tensor:
    poses, moments = 2 * draw(torch.rand, (MOVES + 1, 3)) - 1, draw(torch.rand, (MOVES,))
    each = zip(x, size * poses, moments, strict=True)
    return torch.stack([with_motion(volume, pose[:, 0], pose[:, 1:], moment) for volume, pose, moment in each])


def _low_dose(x: Tensor, size: float, draw: Draw) -> Tensor:
    return x + size * reconstructed_noise(draw(torch.randn))


def _streaks(x: Tensor, size: float, draw: Draw) -> Tensor:
    height, width = x.shape[2:4]
    places, normals = draw(torch.rand, (RODS, 2)), draw(torch.randn, (ANGLES, num_bins(height, width)))
    centres = (0.25 + 0.5 * places) * places.new_tensor([height - 1, width - 1])
    radius = max(1.5, ROD_RADIUS * min(height, width))
    added = [metal_streaks(height, width, *each[:1], radius, each[1]) for each in zip(centres, normals, strict=True)]
    return x + size * torch.stack(added)[:, None, :, :, None]


def _spikes(x: Tensor, size: float, draw: Draw) -> Tensor:
    directions, drawn = draw(torch.randn, (SPIKES, 3)), draw(torch.rand, (SPIKES, 2))
    low, high = SPIKE_FREQUENCIES
    frequencies = directions / directions.norm(dim=2, keepdim=True) * (low + (high - low) * drawn[:, :, :1])
    each = zip(x, frequencies, drawn[:, :, 1], strict=True)
    return torch.stack([with_spikes(volume, size, frequency, phase) for volume, frequency, phase in each])


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of corruption.

    Attributes:
        make: of volumes, a size and the draws.
        sizes: at severities 1 to 5.
        unit: what a size is.
        none: the size that changes nothing: severity 0.
        draws: whether it draws.
    """

    make: Callable[[Tensor, float, Draw], Tensor]
    sizes: tuple[float, float, float, float, float]
    unit: str
    none: float = 0.0
    draws: bool = True


LADDER = (0.02, 0.04, 0.07, 0.11, 0.16)  # on the [0, 1] intensity scale; 8, 17, 30, 47, 68 HU of the papers' CT window

KINDS: Mapping[str, Kind] = {
    "gaussian_noise": Kind(make=_gaussian_noise, sizes=LADDER, unit="standard deviation"),
    "rician_noise": Kind(make=_rician_noise, sizes=LADDER, unit="standard deviation of either channel"),
    "blur": Kind(
        make=lambda x, size, draw: blurred(x, size),
        sizes=(0.4, 0.6, 0.9, 1.2, 1.6),
        unit="standard deviation in voxels",
        draws=False,
    ),
    "bias_field": Kind(make=_bias_field, sizes=(0.05, 0.1, 0.17, 0.25, 0.35), unit="largest coefficient of the log"),
    "motion": Kind(make=_motion, sizes=(0.5, 1.0, 2.0, 3.5, 5.0), unit="largest turn in degrees, and shift in voxels"),
    "ghosting": Kind(
        make=lambda x, size, draw: with_ghosts(x, size),
        sizes=(0.15, 0.3, 0.5, 0.75, 1.0),
        unit="share of their amplitude that every fourth line of k-space loses",
        draws=False,
    ),
    "low_dose": Kind(make=_low_dose, sizes=LADDER, unit="standard deviation"),
    "streaks": Kind(make=_streaks, sizes=LADDER, unit="root mean square outside the metal"),
    "resolution": Kind(
        make=lambda x, size, draw: coarser(x, size),
        sizes=(1.25, 1.5, 2.0, 2.5, 3.0),
        unit="side of a voxel over what it was",
        none=1.0,
        draws=False,
    ),
    "contrast": Kind(
        make=lambda x, size, draw: x**size, sizes=(1.1, 1.3, 1.6, 2.0, 2.5), unit="exponent", none=1.0, draws=False
    ),
    "spikes": Kind(make=_spikes, sizes=LADDER, unit="amplitude of either wave"),
}


def _kind(value: Any) -> str | None:
    return None if isinstance(value, str) and value in KINDS else unknown("kind", str(value), KINDS)


def _severity(value: Any) -> str | None:
    valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 5
    return None if valid else f"expected a number from 1 to 5 (0: nothing), got {value!r}"


@dataclass(frozen=True, kw_only=True)
class Corruption(Attack):
    """What a scanner or a careless protocol does to a volume, in five severities; the model is not asked.

    A volume is corrupted as one, not window by window, then clamped to [0, 1]; nothing is stretched or renormalised, so
    that a darker volume stays one. Sizes by severity are those of `KINDS`, on the [0, 1] intensity scale unless a unit
    is named:

    | kind | severities 1 to 5 | what |
    | --- | --- | --- |
    | `gaussian_noise` | std 0.02, 0.04, 0.07, 0.11, 0.16 | x + std n |
    | `rician_noise` (MR) | std as above | |x + std (n + i n')|: air is not dark any more |
    | `blur` | sigma 0.4, 0.6, 0.9, 1.2, 1.6 voxels | a Gaussian |
    | `bias_field` (MR) | 0.05, 0.1, 0.17, 0.25, 0.35 | exp of a random cubic, bound of its coefficients |
    | `motion` (MR) | 0.5, 1, 2, 3.5, 5 degrees and voxels | four moves while k-space was filled |
    | `ghosting` (MR) | 0.15, 0.3, 0.5, 0.75, 1 | share of amplitude that every fourth line of k-space loses |
    | `low_dose` (CT) | std 0.02, 0.04, 0.07, 0.11, 0.16 | noise of the spectrum that filtered back projection has |
    | `streaks` (CT) | rms 0.02, 0.04, 0.07, 0.11, 0.16 | of two metal rods, the same in every slice |
    | `resolution` | voxels 1.25, 1.5, 2, 2.5, 3 times as large | block means, linear on the way back |
    | `contrast` | exponent 1.1, 1.3, 1.6, 2, 2.5 | x to this power |
    | `spikes` (MR) | amplitude 0.02, 0.04, 0.07, 0.11, 0.16 | two plane waves |

    Every kind takes volumes of any modality; the one in brackets is where it occurs. Draws are the same at every
    severity, so that a curve over severities is that of one scan getting worse. Over the channels of a volume noise is
    drawn anew, all else is shared. Five severities of each kind are the idea of Hendrycks and Dietterich (ICLR 2019,
    arXiv:1903.12261); the ladders are ours, by eye: 1 is hardly seen but for `resolution`, where reading values between
    voxels blurs from the first step on, 5 is harsh, but anatomy can be told. Equal severities of two kinds are not of
    equal size: `l2_body` and its like say how large they are. Lengths are in voxels, whatever the spacing.

    `bias_field` and `blur` are MONAI's. Noise, contrast and resolution are a line each here, so that their draws are
    those of any attack, case by case and on any device. MONAI's spikes set a point of k-space to a logarithm, so that
    their amplitude hangs on the scan; motion, ghosting, low dose and streaks it has none for. TorchIO's motion and
    ghosts follow the same schemes, on the CPU alone and with generators of their own.

    **No simulation of raw data**: `motion`, `ghosting` and `spikes` fill the k-space of the finished magnitude image
    (`freqbench.ops.kspace`), `low_dose` and `streaks` are added to finished slices, the same everywhere in the body
    (`freqbench.ops.tomography`).

    Args:
        kind: what goes wrong, one of `KINDS`.
        severity: 1 to 5, the budget; between whole ones sizes are interpolated linearly, and 0 is the clean volume.
        scope: `volume`.

    `targeted` and `start` have no effect.

    Example:
        >>> Corruption(kind="blur", severity=3).size, Corruption(kind="contrast", severity=0.5).size
        (0.9, 1.05)
    """

    name: ClassVar[str] = "corruption"
    threat_model: ClassVar[str] = "corruption"
    budget_name: ClassVar[str | None] = "severity"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **PARAMETERS,
        "kind": Parameter(f"what goes wrong: {', '.join(KINDS)}", _kind),
        "severity": Parameter("how much of it, from 1 to 5", _severity),
    }
    scopes: ClassVar[tuple[str, ...]] = ("volume",)

    kind: str
    severity: float
    scope: str = "volume"

    @property
    def size(self) -> float:
        """What the severity is for this kind, in its own unit; between whole severities interpolated linearly."""
        kind = KINDS[self.kind]
        return float(np.interp(self.severity, range(6), (kind.none, *kind.sizes)))

    @property
    def passes(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    @property
    def is_stochastic(self) -> bool:
        """As the kind is."""
        return KINDS[self.kind].draws

    def perturb(self, task: Task) -> Tensor:
        """Corrupt volumes; at severity 0 they stay as they are, to the bit."""
        if self.severity == 0:
            return task.clean
        return KINDS[self.kind].make(task.clean, self.size, task.draw).clamp(0, 1)
