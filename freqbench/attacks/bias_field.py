"""Bias fields of MR.  After Chen et al., MICCAI 2020, arXiv:2006.13322."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.searched import SearchedAttack
from freqbench.ops.blocks import along_axes
from freqbench.ops.resampling import CUBIC, cubic_spline_matrix


@dataclass(frozen=True, kw_only=True)
class BiasField(SearchedAttack):
    r"""The most harmful smooth multiplicative field, such as uneven coils cause.

    With uniform cubic B-splines B_n over the sample, n counting control points, and a value c_n for each:

    .. math:: a(r) = \mathrm{clamp}\Bigl(x(r) \exp \sum_n c_n B_n(r), 0, 1\Bigr), \qquad |c_n| \le log\_amplitude

    B-splines are not negative and add up to 1, so the field's logarithm is bounded by log_amplitude in every voxel. A
    constant field, a change of brightness, is in the set. Every channel has its own field.

    Searches from different starts end in different optima, also with many steps: take `restarts` where a number counts.

    Args:
        log_amplitude: largest size of the field's natural logarithm, at least 0; 0.2 is a factor between 0.82 and 1.22.
        control_points: control points on each axis, at least 4, which make the field one cubic polynomial along it;
            each further point adds a piece and allows finer fields.

    `start` and `state`: c, `[B, C, n, n, n]` for n `control_points`.

    **Differs from the paper**, which makes volumes to train on: the field has a bound instead of projected control
    points at a fixed distance, it has three dimensions, and Auto-PGD follows the segmentation's loss instead of a
    distance between two predictions.
    """

    name = "bias_field"
    threat_model = "bias-field"
    budget_name = "log_amplitude"

    num_corners = 9

    log_amplitude: float
    control_points: int = CUBIC

    def space(self, clean: Tensor) -> Space:
        """Returns the box of control points."""
        matrices = [cubic_spline_matrix(self.control_points, side).to(clean) for side in clean.shape[2:]]
        radius = clean.new_tensor(self.log_amplitude)
        centre = clean.new_zeros(*clean.shape[:2], *[self.control_points] * 3)
        return Space(
            centre=centre,
            radius=radius,
            project=lambda c: c.clamp(-radius, radius),
            render=lambda c: (clean * along_axes(c, matrices).exp()).clamp(0, 1),
        )

    def ways(self, clean: Tensor, space: Space) -> Iterator[Tensor]:
        """Yields all control points together and the steepest ramp along each axis."""
        yield from super().ways(clean, space)
        rising = torch.linspace(-1, 1, self.control_points, dtype=clean.dtype, device=clean.device)
        yield from (rising[:, None, None], rising[:, None], rising)
