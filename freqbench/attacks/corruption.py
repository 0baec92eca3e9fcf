"""Natural corruptions in five severities.  After Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.parameters import CORRUPTION, PARAMETERS
from freqbench.attacks.core.task import Task
from freqbench.ops import artefacts

MOVES = 4
SPIKES = 2
SPIKE_FREQUENCIES = (0.1, 0.4)  # cycles per voxel: the wave is neither a slope nor a chequerboard

Draw = Callable[..., Tensor]


def _bias_field(x: Tensor, size: float, draw: Draw) -> Tensor:
    seeds = (draw(torch.rand, (1,))[:, 0] * 2**24).long().tolist()
    return torch.stack([artefacts.unevenly_lit(volume, size, seed) for volume, seed in zip(x, seeds, strict=True)])


def _motion(x: Tensor, size: float, draw: Draw) -> Tensor:
    poses = size * (2 * draw(torch.rand, (MOVES + 1, 3)) - 1)
    moments = draw(torch.rand, (MOVES,))
    moves = zip(x, poses[..., 0], poses[..., 1:], moments, strict=True)
    return torch.stack([artefacts.with_motion(*volume_and_moves) for volume_and_moves in moves])


def _spikes(x: Tensor, size: float, draw: Draw) -> Tensor:
    directions = draw(torch.randn, (SPIKES, 3))
    drawn = draw(torch.rand, (SPIKES, 2))
    low, high = SPIKE_FREQUENCIES
    frequencies = directions / directions.norm(dim=2, keepdim=True) * (low + (high - low) * drawn[:, :, :1])
    waves = zip(x, frequencies, drawn[:, :, 1], strict=True)
    return torch.stack([artefacts.with_spikes(volume, size, frequency, phase) for volume, frequency, phase in waves])


@dataclass(frozen=True)
class Kind:
    """A kind of corruption: a function of volumes, size and draws, and its sizes; at severity 0 the size is `none`."""

    make: Callable[[Tensor, float, Draw], Tensor]
    sizes: tuple[float, float, float, float, float]  # at severities 1 to 5
    none: float = 0.0
    draws: bool = True


LADDER = (0.02, 0.04, 0.07, 0.11, 0.16)  # on the [0, 1] intensity scale; 8, 17, 30, 47, 68 HU of the papers' CT window

KINDS: Mapping[str, Kind] = {
    "gaussian_noise": Kind(lambda x, size, draw: x + size * draw(torch.randn), LADDER),  # standard deviation
    # Standard deviation of either channel, in the magnitude |x + std (n + i n')|: air is no longer dark.
    "rician_noise": Kind(
        lambda x, size, draw: torch.hypot(x + size * draw(torch.randn), size * draw(torch.randn)), LADDER
    ),
    # Standard deviation in voxels.
    "blur": Kind(lambda x, size, draw: artefacts.blurred(x, size), (0.4, 0.6, 0.9, 1.2, 1.6), draws=False),
    "bias_field": Kind(_bias_field, (0.05, 0.1, 0.17, 0.25, 0.35)),  # largest coefficient of the log
    "motion": Kind(_motion, (0.5, 1.0, 2.0, 3.5, 5.0)),  # largest rotation in degrees, and shift in voxels
    # Share of their amplitude that every fourth line of k-space loses.
    "ghosting": Kind(lambda x, size, draw: artefacts.with_ghosts(x, size), (0.15, 0.3, 0.5, 0.75, 1.0), draws=False),
    # Standard deviation.
    "low_dose": Kind(lambda x, size, draw: x + size * artefacts.reconstructed_noise(draw(torch.randn)), LADDER),
    # Ratio of a voxel's side to the original side.
    "resolution": Kind(
        lambda x, size, draw: artefacts.coarser(x, size), (1.25, 1.5, 2.0, 2.5, 3.0), none=1.0, draws=False
    ),
    "contrast": Kind(lambda x, size, draw: x**size, (1.1, 1.3, 1.6, 2.0, 2.5), none=1.0, draws=False),  # exponent
    "spikes": Kind(_spikes, LADDER),  # amplitude of either wave
}


@dataclass(frozen=True, kw_only=True)
class Corruption(Attack):
    """Applies a fault of a scanner or a careless protocol to a volume, in five severities, without querying the model.

    A volume is corrupted as a whole, then clamped to [0, 1] and never stretched, so a darker volume stays darker;
    `KINDS` has the sizes. `rician_noise`, `bias_field`, `motion`, `ghosting` and `spikes` occur in MR, `low_dose` in
    CT, the others in both; every kind accepts any modality. Draws are the same at every severity, so a curve shows one
    scan getting worse. Noise is drawn separately for each channel; all else is shared.

    Five severities of each kind are the idea of Hendrycks and Dietterich; the sizes are ours, chosen by eye: 1 is
    hardly visible (except for `resolution`); 5 is harsh, but the anatomy is still recognisable. Equal severities of two
    kinds are not equally large: compare them by `l2_body` and similar distances. All kinds change the finished image,
    not raw data (`freqbench.ops.artefacts`).

    Args:
        severity: 1 to 5, the budget; sizes between whole severities are interpolated linearly, and 0 is the clean
            volume.

    `targeted` and `start` have no effect.
    """

    name = "corruption"
    threat_model = "corruption"
    budget_name = "severity"
    parameters = PARAMETERS | CORRUPTION
    scopes = ("volume",)
    passes = (0, 0)

    kind: str
    severity: float
    scope: str = "volume"

    @property
    def size(self) -> float:
        """Size of the corruption in the kind's own unit, interpolated linearly between whole severities."""
        kind = KINDS[self.kind]
        return float(np.interp(self.severity, range(6), (kind.none, *kind.sizes)))

    @property
    def is_stochastic(self) -> bool:
        """True if this kind of corruption draws random numbers."""
        return KINDS[self.kind].draws

    def perturb(self, task: Task) -> Tensor:
        """Corrupts volumes; at severity 0 they stay unchanged to the bit."""
        if self.severity == 0:
            return task.clean
        return KINDS[self.kind].make(task.clean, self.size, task.draw).clamp(0, 1)
