"""States the finding of a check: a verdict and a plain sentence."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Verdict = Literal["violated", "in doubt", "holds", "noted", "not checked"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # the gravest first


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Finding of one check about one model on one dataset; `per_model` fills these in, and `audited` the check."""

    check: str = ""  # a name of CHECKS
    dataset: str = ""
    verdict: Verdict  # `noted` is a fact that is neither right nor wrong
    sentence: str  # the observation, or what is missing and the cell that would give it
    model: str = ""  # empty: it is about the dataset
    subject: str = ""  # the attack, if a check has a finding for each
    difference: float = math.nan  # in points of DSC x100, with its 95 % interval; the verdict rests on it
    low: float = math.nan
    high: float = math.nan
    comparisons: int = 0
    cases: int = 0
    patients: int = 0


def unchecked(reason: str) -> Finding:
    """Makes the finding of a check that could not be made, with the reason."""
    return Finding(verdict="not checked", sentence=f"{reason[0].upper()}{reason[1:]}.")


def interval_text(low: float, high: float) -> str:
    """Words the interval from `low` to `high` for a sentence: `95 % interval [-1.2, 3.0]`, or `no interval` for NaN."""
    bounds = (f"{round(value, 1) + 0.0:.1f}" for value in (low, high))  # adding 0 makes -0.0 plain 0.0
    return "no interval" if math.isnan(low) else f"95 % interval [{', '.join(bounds)}]"
