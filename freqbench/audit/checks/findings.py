"""Words what a check of the audit found: a verdict and a plain sentence."""

import math
from dataclasses import dataclass

HOLDS, VIOLATED, IN_DOUBT, NOTED, NOT_CHECKED = "holds", "violated", "in doubt", "noted", "not checked"
VERDICTS = (VIOLATED, IN_DOUBT, HOLDS, NOTED, NOT_CHECKED)  # the gravest first


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found about one model on one dataset, which `per_model` fills in, and `audited` the check."""

    check: str = ""  # a name of CHECKS
    dataset: str = ""
    verdict: str  # of VERDICTS; `noted` is a fact that is neither right nor wrong
    sentence: str  # what was seen, or what is missing and which cell would give it
    model: str = ""  # empty: it is about the dataset
    subject: str = ""  # the attack, where a check has a finding for each
    difference: float = math.nan  # points of DSC x100 on which the verdict rests, with its 95 % interval
    low: float = math.nan
    high: float = math.nan
    comparisons: int = 0
    cases: int = 0
    patients: int = 0


def unchecked(reason: str) -> Finding:
    """That a check could not be made, and why."""
    return Finding(verdict=NOT_CHECKED, sentence=f"{reason[0].upper()}{reason[1:]}.")


def interval_text(low: float, high: float) -> str:
    """An interval within a sentence: `95 % interval [-1.2, 3.0]`, or `no interval` for NaN."""
    bounds = (f"{round(value, 1) + 0.0:.1f}" for value in (low, high))  # adding 0 makes -0.0 plain 0.0
    return "no interval" if math.isnan(low) else f"95 % interval [{', '.join(bounds)}]"


def counted(number: int, word: str) -> str:
    """A number with its word: `1 case`, `3 cases`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
