"""Two attacks held against each other case by case, and the rule that makes a verdict of the difference.

With d = DSC under the attack that should hurt more, minus DSC under the other, in points (x100), paired by case, means
over seeds first, and [low, high] its 95 % bootstrap interval over patients:

- `violated`: d > POINTS and low > 0; `in doubt`: d > POINTS, but low <= 0 or one patient, who has no interval;
- where the one must merely not be beaten, `holds` is all else: differences up to POINTS (what the authors' own reruns
  differ by) are no difference. Where neither takes more than POINTS there is nothing to compare, and the two are left
  out;
- where it must be clearly better (`strict`: than noise, than a null row), `holds` needs d < -POINTS and high < 0, and
  what cannot be told apart is `in doubt`. Where the other alone is a total failure there is nothing left to be better
  at, and the two are not compared.

So `holds` says that no violation above POINTS was seen on these cases, no more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from freqbench.reporting.audit.evidence import Evidence, Side
from freqbench.reporting.audit.findings import HOLDS, IN_DOUBT, VIOLATED, Finding, counted, gravest, interval_text
from freqbench.reporting.statistics import mean_intervals

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
        (source, target, attack), (other, _, against) = self.strong, self.weak
        if source == target == other:
            return attack, against
        if target == other:
            return f"{attack} made on {source}", f"{against} made on it"
        return (
            f"{attack} made on it" if source == target else f"{attack} made on {source}",
            f"{against} made on {other}",
        )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A contrast with what came of it: `difference` is d, in points."""

    contrast: Contrast
    difference: float
    low: float
    high: float
    cases: int
    patients: int
    strict: bool

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        exceeds, is_above = self.difference > POINTS, self.low > 0
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
    """Contrasts with their differences, those without a common case left out; all bootstraps at once.

    Args:
        evidence: the scores.
        contrasts: of any datasets and models.
        strict: whether the one must be clearly better. Contrasts that can say nothing are left out: of those whose
            weaker side alone is a total failure, of others where neither takes more than POINTS.
    """
    parts = []
    for number, contrast in enumerate(contrasts):
        strong, weak = (_of(evidence, contrast, side) for side in (contrast.strong, contrast.weak))
        difference = (strong - weak).dropna()
        if failure(evidence, contrast) if strict else _is_idle(evidence, contrast, strong, weak, difference.index):
            continue
        patients = evidence.patients[contrast.dataset].reindex(difference.index).to_numpy()
        parts.append(pd.DataFrame({"number": number, "value": difference.to_numpy(), "patient_id": patients}))
    parts = [part for part in parts if len(part)]
    if not parts:
        return []
    rows = mean_intervals(pd.concat(parts, ignore_index=True), ["number"], "value")
    return [
        Judged(
            contrast=contrasts[int(row["number"])],
            difference=float(row["mean"]),
            low=float(row["low"]),
            high=float(row["high"]),
            cases=int(row["n"]),
            patients=int(row["clusters"]),
            strict=strict,
        )
        for row in rows.to_dict("records")
    ]


def failure(evidence: Evidence, contrast: Contrast) -> bool:
    """Whether the weaker attack alone leaves nothing of the foreground, by the mean over cases."""
    source, target, label = contrast.weak
    scores = evidence.scores(contrast.dataset, source, target, "fg")
    return label in scores and float(scores[label].mean()) <= FAILURE


def _is_idle(evidence: Evidence, contrast: Contrast, strong: pd.Series, weak: pd.Series, cases: pd.Index) -> bool:
    """Whether neither attack takes anything from its model, as far as that is known."""
    sides = ((strong, contrast.strong[1]), (weak, contrast.weak[1]))
    clean = [evidence.clean(contrast.dataset, target, "clean").reindex(cases) for _, target in sides]
    drops = [float((before - left.reindex(cases)).mean()) for before, (left, _) in zip(clean, sides, strict=True)]
    return all(drop <= POINTS for drop in drops)


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
        of_all = f" {same} of {len(judged)} comparisons are like this." if len(judged) > 1 else ""
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
