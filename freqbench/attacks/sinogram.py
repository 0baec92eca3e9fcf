"""Noise in CT projections.  After Gandikota et al., MIDL 2023, arXiv:2402.11557."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.acquisition import AcquisitionAttack
from freqbench.ops.tomography import ParallelBeam


@dataclass(frozen=True, kw_only=True)
class Sinogram(AcquisitionAttack):
    r"""The relative noise of projections that hurts most, slice by slice.

    With R the projection of a slice H x W by a parallel beam, R^+ filtered back projection
    (`freqbench.ops.tomography`), and a number u for each reading of the detector:

    .. math:: a = \mathrm{clamp}\bigl(x + R^+ (u \, R x), 0, 1\bigr), \qquad |u| \le eps_p

    Only the change is reconstructed, so that u = 0 is the clean volume itself. Projections are those of intensities on
    the [0, 1] scale, air 0, in place of attenuation, and those of a window are of the window alone: `scope: volume`
    has rays through the whole slice.

    Args:
        eps_p: largest relative change of a reading, from 0 to 1.
        angles: projections over half a turn.

    Beside the network's passes a step takes two sparse products, whose time grows with the angles.

    `start` and `state`: u, `[B, C, angles, T, D]`, T readings a projection, a voxel apart.

    **Differs from the paper**, which attacks the reconstruction by networks, by noise of bounded L2 norm: filtered back
    projection, a bound relative to each reading, and a segmentation as target.
    """

    name: ClassVar[str] = "sinogram"
    threat_model: ClassVar[str] = "sinogram"
    budget_name: ClassVar[str] = "eps_p"

    eps_p: float
    angles: int = 90

    def space(self, clean: Tensor) -> Space:
        """The box of readings."""
        beam = ParallelBeam.of(clean, self.angles)
        readings = beam.project(clean)
        radius = clean.new_tensor(self.eps_p)
        return Space(
            centre=torch.zeros_like(readings),
            radius=radius,
            project=lambda u: u.clamp(-radius, radius),
            render=lambda u: (clean + beam.reconstruct(u * readings)).clamp(0, 1),
        )
