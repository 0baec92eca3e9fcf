"""Two attacks held against each other case by case, and the rule that makes a verdict of the difference.

With d = DSC under the attack that should hurt more, minus DSC under the other, in points (x100), paired by case, means
over seeds first, and [low, high] its 95 % interval over patients, of Student's t:

- `violated`: d > POINTS and low > 0; `in doubt`: d > POINTS, but low <= 0 or one patient, who has no interval;
- where the one must merely not be beaten, `holds` is all else: differences up to POINTS (what the authors' own reruns
  differ by) are no difference, and an attack that leaves nothing of the foreground cannot be beaten. Where neither
  takes more than POINTS there is nothing to compare, and the two are silent;
- where it must be clearly better (`strict`: than noise, than a null row), `holds` needs d < -POINTS and high < 0, and
  what cannot be told apart is `in doubt`. Where the other alone is a total failure there is nothing left to be better
  at, and the two are silent.

So `holds` says that no violation above POINTS was seen on these cases, no more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from freqbench.analysis.statistics import t_intervals
from freqbench.audit.checks.evidence import Evidence, Side
from freqbench.audit.checks.findings import HOLDS, IN_DOUBT, VIOLATED, Finding, counted, gravest, interval_text

POINTS = 0.5
FAILURE = 10.0
"""Foreground DSC x100 up to which nothing is left."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """`strong` should hurt at least as much as `weak`.

    Attributes:
        dataset: where.
        strong: the attack that should hurt more.
        weak: the other.
        hint: what to look at first where it does not; may be empty.
    """

    dataset: str
    strong: Side
    weak: Side
    hint: str = ""

    @property
    def names(self) -> tuple[str, str]:
        """What a sentence calls the two: by their attacks, or by the models that they were made on."""
        (source, _, attack), (other, _, against) = self.strong, self.weak
        return (attack, against) if source == other else (f"{attack} made on {source}", f"{against} made on {other}")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A contrast with what came of it.

    Attributes:
        contrast: what was held against what.
        difference: d, in points; `low` and `high` of its interval.
        cases: that both have, and `patients`.
        strict: whether the one must be clearly better.
        is_silent: whether nothing can be said.
        is_total: whether the attack that should hurt more leaves nothing of the foreground.
    """

    contrast: Contrast
    difference: float
    low: float
    high: float
    cases: int
    patients: int
    strict: bool
    is_silent: bool
    is_total: bool

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        exceeds, is_above = self.difference > POINTS, self.low > 0
        if self.is_total and not self.strict:
            return HOLDS
        if exceeds:
            return VIOLATED if is_above else IN_DOUBT
        if not self.strict or (self.difference < -POINTS and self.high < 0):
            return HOLDS
        return IN_DOUBT

    @property
    def text(self) -> str:
        """Which leaves how much more than which."""
        strong, weak = self.contrast.names
        more, other = (strong, weak) if self.difference > 0 else (weak, strong)
        count = f"{counted(self.cases, 'case')} of {counted(self.patients, 'patient')}"
        interval = interval_text(self.low, self.high)
        if abs(self.difference) < 0.05:
            return f"{strong} and {weak} leave the same DSC ({interval}, {count})"
        bounds = interval if self.difference > 0 else interval_text(-self.high, -self.low)
        return f"{more} leaves {abs(self.difference):.1f} points more DSC than {other} ({bounds}, {count})"


def judge(evidence: Evidence, contrasts: Sequence[Contrast], strict: bool = False) -> list[Judged]:
    """Contrasts with their differences, those without a common case left out.

    Args:
        evidence: the scores.
        contrasts: of any datasets and models.
        strict: whether the one must be clearly better.
    """
    parts = []
    for number, contrast in enumerate(contrasts):
        difference = (_of(evidence, contrast, contrast.strong) - _of(evidence, contrast, contrast.weak)).dropna()
        patients = evidence.patients[contrast.dataset].reindex(difference.index).to_numpy()
        parts.append(pd.DataFrame({"number": number, "value": difference.to_numpy(), "patient_id": patients}))
    parts = [part for part in parts if len(part)]
    if not parts:
        return []
    rows = t_intervals(pd.concat(parts, ignore_index=True), ["number"], "value").to_dict("records")
    return [
        Judged(
            contrast=contrast,
            difference=float(row["mean"]),
            low=float(row["low"]),
            high=float(row["high"]),
            cases=int(row["n"]),
            patients=int(row["clusters"]),
            strict=strict,
            is_silent=_is_silent(evidence, contrast, strict),
            is_total=_is_total(evidence, contrast.dataset, contrast.strong),
        )
        for row, contrast in ((row, contrasts[int(row["number"])]) for row in rows)
    ]


def _is_silent(evidence: Evidence, contrast: Contrast, strict: bool) -> bool:
    """Whether a contrast says nothing: see the module."""
    if strict:
        return _is_total(evidence, contrast.dataset, contrast.weak)
    drops = [_drop(evidence, contrast.dataset, side) for side in (contrast.strong, contrast.weak)]
    return all(drop <= POINTS for drop in drops)


def _drop(evidence: Evidence, dataset: str, side: Side) -> float:
    """Mean points of DSC that an attack takes; NaN where the clean ones are not known."""
    source, target, label = side
    left = evidence.scores(dataset, source, target)[label].dropna()
    return float((evidence.clean(dataset, target, "clean").reindex(left.index) - left).mean())


def _is_total(evidence: Evidence, dataset: str, side: Side) -> bool:
    """Whether an attack leaves nothing of the foreground, by the mean over cases."""
    source, target, label = side
    scores = evidence.scores(dataset, source, target, "fg")
    return label in scores and float(scores[label].mean()) <= FAILURE


def summed(check: str, dataset: str, model: str, judged: Sequence[Judged], statement: str) -> Finding:
    """One finding of all contrasts of a model: the gravest verdict, told by the largest difference that has it.

    Args:
        check: its name.
        dataset: where.
        model: the model that it is about.
        judged: at least one.
        statement: what is said of the comparisons where all hold.
    """
    verdict = gravest([each.verdict for each in judged])
    worst = max((each for each in judged if each.verdict == verdict), key=lambda each: each.difference)
    if verdict == HOLDS:
        closest = f"; the closest: {worst.text}" if len(judged) > 1 else f": {worst.text}"
        sentence = f"{statement} in {'all ' if len(judged) > 1 else ''}{counted(len(judged), 'comparison')}{closest}."
    else:
        same = sum(each.verdict == verdict for each in judged)
        of_all = f" {same} of {len(judged)} comparisons: {verdict}." if len(judged) > 1 else ""
        hint = f" {worst.contrast.hint}." if worst.contrast.hint else ""
        sentence = f"{worst.text}.{of_all}{hint}"
    return Finding(
        check=check,
        dataset=dataset,
        model=model,
        verdict=verdict,
        sentence=sentence,
        difference=worst.difference,
        low=worst.low,
        high=worst.high,
        comparisons=len(judged),
        cases=worst.cases,
        patients=worst.patients,
    )


def _of(evidence: Evidence, contrast: Contrast, side: Side) -> pd.Series:
    source, target, label = side
    scores = evidence.scores(contrast.dataset, source, target)
    return scores[label] if label in scores else pd.Series(dtype=np.float64)


def is_close(a: float | None, b: float | None) -> bool:
    """Whether two budgets are the same, to rounding."""
    return a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6)
