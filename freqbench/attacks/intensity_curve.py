"""Monotone curves of intensity: window and contrast.  After Laidlaw and Feizi, NeurIPS 2019, arXiv:1906.00001."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.searched import SearchedAttack


@dataclass(frozen=True, kw_only=True)
class IntensityCurve(SearchedAttack):
    r"""The most harmful monotone curve of intensities: another window, another contrast.

    With n `pieces`, and hat functions h_j of width 1/n around the knots j/n, a deviation d_j at each knot makes

    .. math:: a = x + \sum_{j=0}^{n} d_j h_j(x), \qquad |d_j| \le deviation, \qquad
              0 \le \tfrac{j}{n} + d_j \le \tfrac{j + 1}{n} + d_{j+1} \le 1

    so that the curve is linear between knots, never falls, and moves no intensity by more than the deviation: equal
    voxels stay equal, and none overtakes another. Every channel has its own curve. The projection replaces falling
    values by the mean of their running maximum from below and their running minimum from above.

    Args:
        deviation: largest change of an intensity, on the [0, 1] scale.
        pieces: linear pieces of the curve, at least 1; with 1 the curve changes contrast and brightness alone.

    `start` and `state`: d, `[B, C, n + 1]`.

    **Differs from the paper**, whose functions map the colours of photographs by a grid that a penalty keeps smooth:
    here one intensity, monotone, piecewise linear, limited by the bound alone.
    """

    name = "intensity_curve"
    threat_model = "intensity-curve"
    budget_name = "deviation"

    num_corners = 5

    deviation: float
    pieces: int = 8

    def space(self, clean: Tensor) -> Space:
        """Returns the set of deviations of monotone curves at their knots."""
        knots = torch.linspace(0, 1, self.pieces + 1, dtype=clean.dtype, device=clean.device)
        low = (knots - self.deviation).clamp(min=0)
        high = (knots + self.deviation).clamp(max=1)
        # position of each voxel between its knots: [B, C, n + 1, H W D]
        hats = (1 - self.pieces * (clean.flatten(2)[:, :, None] - knots[:, None]).abs()).clamp(min=0)

        def project(d: Tensor) -> Tensor:
            values = (knots + d).clamp(low, high)
            rising = values.cummax(dim=2).values + values.flip(2).cummin(dim=2).values.flip(2)
            return rising / 2 - knots

        def render(d: Tensor) -> Tensor:
            return (clean + (d[:, :, None] @ hats).reshape(clean.shape)).clamp(0, 1)

        centre = clean.new_zeros(*clean.shape[:2], len(knots))
        return Space(centre=centre, radius=clean.new_tensor(self.deviation), project=project, render=render)

    def ways(self, clean: Tensor, space: Space) -> Iterator[Tensor]:
        """Yields brightness and contrast."""
        yield from super().ways(clean, space)
        yield torch.linspace(-1, 1, self.pieces + 1, dtype=clean.dtype, device=clean.device)

    def beyond(self, state: Tensor) -> float:
        """Returns the largest excess: deviation over the bound, fall between knots, or end outside [0, 1]."""
        fall = float((-1 / self.pieces - state.diff(dim=2)).max())
        return max(super().beyond(state), fall, float(-state[:, :, 0].min()), float(state[:, :, -1].max()))
