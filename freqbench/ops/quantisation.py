"""What quantising coefficients by any steps of an interval can make of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

TIE = 1e-5
"""The relative distance of steps from those that leave a coefficient halfway between two multiples, where the last bit
of a division would decide which of them it becomes."""


@dataclass(frozen=True)
class Reach:
    """The values that quantised coefficients can take, as sizes: for each an interval of `few` or `few + 1` steps.

    Attributes:
        spectrum: the coefficients.
        steps: q_min and q_max.
        few: how many steps the smallest value has, n_0.
        first: the interval of n_0 steps, lowest and highest size.
        second: that of n_0 + 1 steps; empty, the lowest above the highest, where no step makes so many.
    """

    spectrum: Tensor
    steps: tuple[float, float]
    few: Tensor
    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest error that can be added to each coefficient."""
        smallest = self.first[0]
        largest = torch.where(self._has_second, torch.maximum(self.first[1], self.second[1]), self.first[1])
        size, sign = self.spectrum.abs(), _sign(self.spectrum)
        ends = (smallest - size) * sign, (largest - size) * sign
        return torch.minimum(*ends), torch.maximum(*ends)

    def nearest(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """The errors that can be reached nearest to those wanted, and the table that makes them.

        Args:
            error: to be added to the spectrum; its shape, any values.

        Returns:
            (q round(c / q) - c, q), with q in [q_min, q_max].
        """
        wanted = self.spectrum.abs().addcmul_(error, _sign(self.spectrum))
        first, second = (torch.minimum(torch.maximum(wanted, low), high) for low, high in (self.first, self.second))
        takes_second = self._has_second & ((second - wanted).abs_() < (first - wanted).abs_())
        q_min, q_max = self.steps
        one_step = torch.where(self.few > 0, first / self.few, q_max)
        table = torch.where(takes_second, second / (self.few + 1), one_step).clamp_(q_min, q_max)
        return hard_error(self.spectrum, table), table

    @property
    def _has_second(self) -> Tensor:
        return self.second[0] <= self.second[1]


def reach(spectrum: Tensor, q_min: float, q_max: float) -> Reach:
    r"""The values q round(c / q) of coefficients c over all steps q in [q_min, q_max], a step for each.

    The sign stays. With a = |c|, c becomes n steps where a / (n + 1/2) <= q <= a / (n - 1/2), which is for every n an
    interval of sizes n q, for n = 0 the size 0. The fewest steps are :math:`n_0 = \lceil a / q_{max} - 1/2 \rceil`. The
    interval of n + 1 steps lies inside that of n, but for n = n_0, whose upper end is n_0 q_max; so all that can be
    reached is

    .. math:: \Bigl[n_0 \max\bigl(q_{min}, \tfrac{a}{n_0 + 1/2}\bigr), \; n_0 \, q_{max}\Bigr] \cup
              \Bigl[(n_0 + 1) \max\bigl(q_{min}, \tfrac{a}{n_0 + 3/2}\bigr), \; (n_0 + 1) \tfrac{a}{n_0 + 1/2}\Bigr],

    without the second interval where a / (n_0 + 1/2) < q_min. So c below q_min / 2 becomes 0 whatever the step, and c
    between q_min / 2 and q_min cannot stay as it is. Steps keep a relative distance of 1e-5 from the ends at which
    c / q lies halfway between whole numbers.

    Args:
        spectrum: c, any shape; a constant.
        q_min: smallest step, above 0.
        q_max: largest step.
    """
    size = spectrum.abs()
    under, over = size * (1 - TIE), size * (1 + TIE)
    few = (over / q_max - 0.5).ceil_().clamp_(min=0)

    def sizes(n: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (over / (n + 0.5)).clamp_(min=q_min), under / (n - 0.5)
        return n * low, n * torch.where(n > 0, high, q_max).clamp_(max=q_max)

    return Reach(spectrum, (q_min, q_max), few, sizes(few), sizes(few + 1))


def hard_error(spectrum: Tensor, table: Tensor) -> Tensor:
    """What quantising a spectrum by a table adds to it, q round(c / q) - c."""
    return (spectrum / table).round_().mul_(table).sub_(spectrum)


def _sign(spectrum: Tensor) -> Tensor:
    """1 for 0, too."""
    return torch.where(spectrum < 0, -1.0, 1.0).to(spectrum)
