"""Whether a number of ours is the papers': judged by what is known of their spread, not by an interval over cases.

An interval over 12 cases passes nearly anything. What the two papers print for the same setting tells how far the
authors' own reruns lie apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from freqbench.reporting.papers.published import decimals

RERUNS: Mapping[str, float] = {"dsc": 0.5, "hd95": 4.6, "lpips_similarity": 0.7}
"""Largest difference between the authors' two papers for one setting, in the tables' units; of SSIM none is known."""

_SLACK = 1e-9  # 62.75 - 62.7 is a little more than 0.05 in binary

Verdict = Literal["parity", "differs", "not comparable", ""]


@dataclass(frozen=True)
class Parity:
    """A verdict.

    Attributes:
        verdict: `parity`, `differs` or `not comparable`; empty where one of the two numbers is missing.
        reasons: why not comparable, or why there is no verdict though there is a number.
        tolerance: the difference up to which there is parity, in the table's unit; NaN where there is nothing to judge.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    tolerance: float = math.nan


def judge(ours: float, printed: str, metric: str, seed_spread: float, obstacles: Sequence[str] = ()) -> Parity:
    """Compare a number with the printed one.

    Parity: |ours - published| <= half a unit of the last printed digit + seed spread + spread of the authors' reruns.

    Args:
        ours: in the table's unit; NaN where there is none.
        printed: the published number with the digits as printed; empty where none is.
        metric: a record's column.
        seed_spread: standard deviation of the mean between seeds, in the same unit; NaN where it is not known.
        obstacles: why the two must not be compared.
    """
    if not printed:
        return Parity("", ("no published number",))
    if math.isnan(ours):
        return Parity("")
    known = 0.0 if math.isnan(seed_spread) else seed_spread
    tolerance = 0.5 * 10.0 ** -decimals(printed) + known + RERUNS.get(metric, 0.0)
    if obstacles:
        return Parity("not comparable", tuple(obstacles), tolerance)
    is_near = abs(ours - float(printed)) <= tolerance + _SLACK
    return Parity("parity" if is_near else "differs", tolerance=tolerance)
