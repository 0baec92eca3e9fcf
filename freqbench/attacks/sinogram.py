"""Noise in CT projections.  After Gandikota et al., MIDL 2023, arXiv:2402.11557."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.searched import SearchedAttack
from freqbench.ops.tomography import ParallelBeam


@dataclass(frozen=True, kw_only=True)
class Sinogram(SearchedAttack):
    r"""The most harmful relative noise of projections, slice by slice.

    With R the projection of a slice H x W by a parallel beam, R^+ filtered back projection
    (`freqbench.ops.tomography`), and a number u for each reading of the detector:

    .. math:: a = \mathrm{clamp}\bigl(x + R^+ (u \, R x), 0, 1\bigr), \qquad |u| \le eps_p

    Only the change is reconstructed, so that u = 0 is the clean volume itself. Projections are taken of intensities on
    the [0, 1] scale (air is 0) instead of attenuation, and for a window of the window alone: with `scope: volume` rays
    pass through the whole slice.

    Besides the network's passes, a step takes two sparse products, whose time grows with the angles.

    Args:
        eps_p: largest relative change of a reading, from 0 to 1.
        angles: projections over half a turn.

    `start` and `state`: u, `[B, C, angles, T, D]`, T readings per projection, one voxel apart.

    **Differs from the paper**, which attacks reconstruction networks by noise of bounded L2 norm: here filtered back
    projection, a bound relative to each reading, and a segmentation as target.
    """

    name = "sinogram"
    threat_model = "sinogram"
    budget_name = "eps_p"

    eps_p: float
    angles: int = 90

    def space(self, clean: Tensor) -> Space:
        """Returns the box of relative changes of the readings."""
        beam = ParallelBeam.of(clean, self.angles)
        readings = beam.project(clean)
        radius = clean.new_tensor(self.eps_p)
        return Space(
            centre=torch.zeros_like(readings),
            radius=radius,
            project=lambda u: u.clamp(-radius, radius),
            render=lambda u: (clean + beam.reconstruct(u * readings)).clamp(0, 1),
        )
