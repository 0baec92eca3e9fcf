"""Quantises spectra by tables: softly, with a derivative, or exactly, with the errors that bounded tables can reach."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.ops.compiled import compiled

FIRST_ALPHA = 0.1
LAST_ALPHA = 1e-20

TIE = 1e-5
"""Relative distance of steps from those that leave a coefficient halfway between two multiples, where the last bit of
a division would decide between them."""

Interval = tuple[Tensor, Tensor]


def alpha_schedule(steps: int) -> list[float]:
    """Returns the softness of rounding at each step, 0.1 (1 - i / steps), as a running float32 sum. The code of VAFA
    (Hanif et al., MICCAI 2023, arXiv 2307.07269) never uses the last sum either: rounding stays soft to the end."""
    change = torch.tensor((LAST_ALPHA - FIRST_ALPHA) / steps)
    alpha = torch.tensor(FIRST_ALPHA)
    schedule = []
    for _ in range(steps):
        schedule.append(float(alpha))
        alpha = alpha + change
    return schedule


def soft_round(u: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    r"""Returns rounding that lets a gradient through, softer with a larger alpha in (0, 1), and its derivative.

    .. math:: \varphi(u) = f + \tfrac12 \Bigl(1 + \tfrac{1}{1 - \alpha} \tanh\bigl(k (u - f - \tfrac12)\bigr)\Bigr),
              \quad f = \lfloor u \rfloor, \; k = \ln(2 / \alpha - 1)

    It meets u at whole numbers and halfway between them. The floor has no derivative, the tanh has. (Gong et al., ICCV
    2019, arXiv 1908.05033; as used by VAFA.)
    """
    steepness, scale = _steepness_and_scale(alpha)
    floor = u.floor()
    tanh = (u - floor).sub_(0.5).mul_(steepness).tanh_()
    value = floor.add_(0.5).add_(tanh, alpha=scale)
    return value, tanh.square_().sub_(1).mul_(-scale * steepness)


@cache
def _steepness_and_scale(alpha: float) -> tuple[float, float]:
    # Rounded to float32 as in the released code: in float64 runs, signs depend on it.
    softness = torch.tensor(alpha, dtype=torch.float32)
    return float(torch.log(2 / softness - 1)), float(1 / (1 - softness)) / 2


def quantisation_error(spectrum: Tensor, table: Tensor, alpha: float) -> Tensor:
    r"""Returns the change of a constant spectrum c quantised by a table q > 0, of steepness `alpha`: :math:`\varphi(c /
    q) \, q - c`.

    The gradient reaches the table through the division and the product: :math:`\varphi(u) - u \varphi'(u)` with u = c /
    q. Returning the difference to the spectrum keeps float32 exact where little changes.
    """
    return _QuantisationError.apply(spectrum, table, alpha)  # type: ignore[no-untyped-call]


class _QuantisationError(torch.autograd.Function):
    """Keeps one tensor, the derivative with respect to the table."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, table: Tensor, alpha: float) -> Tensor:
        u = spectrum / table
        value, slope = soft_round(u, alpha)
        ctx.save_for_backward(torch.addcmul(value, u, slope, value=-1))
        return value.mul_(table).sub_(spectrum)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return None, upstream * derivative, None


@dataclass(frozen=True)
class Reach:
    """The errors that quantisation can add to each coefficient: an interval, or two."""

    spectrum: Tensor  # the coefficients
    steps: tuple[float, float]  # q_min and q_max
    few: Tensor  # the fewest steps that a coefficient becomes, n_0
    first: Interval  # lowest and highest error of coefficients that become n_0 steps
    second: Interval  # of coefficients that become n_0 + 1 steps; infinite if no step makes so many
    bounds: Interval  # lowest and highest error of each coefficient

    def nearest(self, error: Tensor) -> Tensor:
        """Returns the reachable errors nearest to the wanted `error`, in the spectrum's shape."""
        return nearest_error(error, self.first, self.second)

    def table(self, error: Tensor) -> Tensor:
        """Returns steps q in [q_min, q_max] for a reachable `error`, which `hard_error` returns for them, to
        rounding."""
        return table_of(error, self.first, self.second, self.spectrum, self.few, *self.steps)


@compiled
def nearest_error(error: Tensor, first: Interval, second: Interval) -> Tensor:
    """Returns the number of two intervals that is nearest to each error; of equal distances that of the first, not the
    second."""
    one = torch.clamp(error, *first)
    other = torch.clamp(error, *second)
    return torch.where((other - error).abs_() < (one - error).abs_(), other, one)


@compiled
def table_of(
    error: Tensor, first: Interval, second: Interval, spectrum: Tensor, few: Tensor, q_min: float, q_max: float
) -> Tensor:
    """Returns the steps of `Reach.table`."""
    one = torch.clamp(error, *first)
    other = torch.clamp(error, *second)
    many = few + ((other - error).abs_() < (one - error).abs_())
    size = (spectrum + error).abs_()
    return torch.where(many > 0, size / many, q_max).clamp_(q_min, q_max)


def reach(spectrum: Tensor, q_min: float, q_max: float) -> Reach:
    r"""Returns the values q round(c / q) of a constant `spectrum` c over all steps q in [q_min, q_max], q_min above 0.

    The sign stays. With a = |c|, c becomes n steps if a / (n + 1/2) <= q <= a / (n - 1/2), which gives an interval of
    sizes n q for every n, and the size 0 for n = 0. The fewest steps are :math:`n_0 = \lceil a / q_{max} - 1/2 \rceil`.
    The interval of n + 1 steps lies inside that of n, except for n = n_0, whose upper end is n_0 q_max; so all
    reachable sizes are

    .. math:: \Bigl[n_0 \max\bigl(q_{min}, \tfrac{a}{n_0 + 1/2}\bigr), \; n_0 \, q_{max}\Bigr] \cup
              \Bigl[(n_0 + 1) \max\bigl(q_{min}, \tfrac{a}{n_0 + 3/2}\bigr), \; (n_0 + 1) \tfrac{a}{n_0 + 1/2}\Bigr],

    without the second interval if a / (n_0 + 1/2) < q_min. So c below q_min / 2 becomes 0 for every step, and c between
    q_min / 2 and q_min cannot stay as it is. Steps keep a relative distance of 1e-5 from the ends at which c / q lies
    halfway between whole numbers.
    """
    return Reach(spectrum, (q_min, q_max), *reachable(spectrum, q_min, q_max))


@compiled
def reachable(spectrum: Tensor, q_min: float, q_max: float) -> tuple[Tensor, Interval, Interval, Interval]:
    """Returns the fewest steps in [q_min, q_max] that coefficients of a `spectrum` become, the errors of so many, of
    one more, and of both (`reach`)."""
    size = spectrum.abs()
    under = size * (1 - TIE)
    over = size * (1 + TIE)
    few = (over / q_max - 0.5).ceil_().clamp_(min=0)
    is_negative = spectrum < 0

    def steps(n: Tensor) -> Interval:
        low = (over / (n + 0.5)).clamp_(q_min, q_max)
        high = under / (n - 0.5)
        return low, torch.where(n > 0, high, q_max).clamp_(max=q_max)

    def errors(n: Tensor, low: Tensor, high: Tensor) -> Interval:
        less, more = (torch.where(low <= high, n * step - size, torch.inf) for step in (low, high))
        return torch.where(is_negative, -more, less), torch.where(is_negative, -less, more)

    least, most = steps(few)
    # Beyond 50,000 steps the distances from both ends leave an empty interval: it keeps one step all the same.
    first = errors(few, least, torch.maximum(least, most))
    second = errors(few + 1, *steps(few + 1))
    low, high = (torch.where(end.isfinite(), end, first[i]) for i, end in enumerate(second))
    return few, first, second, (torch.minimum(first[0], low), torch.maximum(first[1], high))


@compiled
def hard_error(spectrum: Tensor, table: Tensor) -> Tensor:
    """Returns the change of a spectrum when a table quantises it, q round(c / q) - c."""
    return (spectrum / table).round_().mul_(table).sub_(spectrum)
