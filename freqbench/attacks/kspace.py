"""Changes of MR k-space.  After Morshuis et al., MLMIR at MICCAI 2022, arXiv:2208.03161."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.searched import SearchedAttack

CENTRE = 0.25  # of the highest frequency of each axis


@dataclass(frozen=True, kw_only=True)
class KSpace(SearchedAttack):
    r"""The most harmful relative change of k-space, in magnitude and phase.

    With K the discrete Fourier transform of the clean volume and a complex number u for each of its points, 0 outside
    `region`:

    .. math:: a = \mathrm{clamp}\bigl(\Re \, \mathcal F^{-1} (K (1 + u)), 0, 1\bigr), \qquad |u| \le eps_k

    No magnitude then changes by more than eps_k of itself, no phase by more than arcsin(eps_k), and the volume by no
    more than eps_k of its L2 norm (Parseval's theorem). Auto-PGD steps along g / `|g|`, with g the gradient with
    respect to u. Volumes are real, so u at k and u at -k act on the same cosine.

    Args:
        eps_k: largest `|u|`, from 0 to 1.
        region: frequencies that may change. `centre`: up to a quarter of each axis's highest, which carry contrast;
            `periphery`: all others, which carry edges; `all`.
        lines: use one u for all points of a phase-encoding line, which makes ghosts along W.
        encoding: `2d`: each slice H x W separately, phase encoded along W; `3d`: the volume at once, phase encoded
            along W and D. H is the readout axis.

    `start` and `state`: u, complex `[B, C, H, W, D]`, with `lines` `[B, C, 1, W, D]`; axis D holds slices in `2d`,
    frequencies in `3d`.

    **Differs from the paper**, which attacks the reconstruction of raw multi-coil data by noise of bounded L2 norm:
    here the volume is the finished image, whose k-space is that of one coil without a phase; the bound is relative to
    each point; the attacked network segments. Scanners show the magnitude, which equals this real part up to terms of
    second order in u.
    """

    name = "kspace"
    threat_model = "kspace"
    budget_name = "eps_k"

    num_corners = 7

    eps_k: float
    region: str = "all"
    lines: bool = False
    encoding: str = "2d"

    def space(self, clean: Tensor) -> Space:
        """Returns a disc for each point or line of k-space."""
        spectrum = torch.fft.fftn(clean, dim=self._axes)
        free = self._free(spectrum.shape).to(clean)
        centre = torch.zeros_like(spectrum[:, :, :1] if self.lines else spectrum)

        def project(u: Tensor) -> Tensor:
            return free * u * (self.eps_k / u.abs().clamp(min=torch.finfo(clean.dtype).tiny)).clamp(max=1)

        def render(u: Tensor) -> Tensor:
            change: Tensor = torch.fft.ifftn(u * spectrum, dim=self._axes).real
            return (clean + change).clamp(0, 1)

        return Space(centre=centre, radius=clean.new_tensor(self.eps_k), project=project, render=render)

    def ways(self, clean: Tensor, space: Space) -> Iterator[Tensor]:
        """Yields all magnitudes together, the centre alone and the periphery alone."""
        yield from super().ways(clean, space)
        for region in ("centre", "periphery"):
            yield replace(self, region=region)._free(space.centre.shape).to(space.centre)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the excess of the base class, with the volumes of the state in float64."""
        return super().excess(clean.double(), adversarial, None if state is None else state.to(torch.complex128))

    def beyond(self, state: Tensor) -> float:
        """Returns the excess of the largest `|u|` over eps_k, or the largest `|u|` outside the region, if larger."""
        outside = state * (1 - self._free(state.shape).to(state.device))
        return max(super().beyond(state), float(outside.abs().max()))

    @property
    def _axes(self) -> list[int]:
        """Axes of the Fourier transform: H (readout) unless `lines`, W, and in `3d` D."""
        return [*([] if self.lines else [2]), 3, *([4] if self.encoding == "3d" else [])]

    def _free(self, shape: torch.Size) -> Tensor:
        """Returns a mask that broadcasts over k-space: 1 at the frequencies of the region, else 0."""
        highest = torch.zeros([1] * len(shape))
        for axis in self._axes:
            along = torch.fft.fftfreq(shape[axis]).abs() * 2
            highest = torch.maximum(highest, along.reshape([-1 if i == axis else 1 for i in range(len(shape))]))
        if self.region == "all":
            return torch.ones_like(highest)
        return ((highest <= CENTRE) == (self.region == "centre")).to(highest)
