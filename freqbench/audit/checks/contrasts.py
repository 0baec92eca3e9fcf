"""Compares two attacks case by case, and judges the difference.

Let d = DSC under the attack that should hurt more, minus DSC under the other, in points (x100), paired by case, means
over seeds first, and [low, high] its 95 % interval over patients (Student's t):

- `violated`: d > POINTS and low > 0; `in doubt`: d > POINTS, but low <= 0 or one patient, who has no interval;
- where the one must merely not be beaten, all else `holds`: differences up to POINTS (by which the authors' reruns
  differ) are no difference, and an attack that leaves nothing of the foreground cannot be beaten. Where neither
  takes more than POINTS there is nothing to compare, and the two are silent;
- where it must be clearly better (`strict`: than noise, than a null row), `holds` needs d < -POINTS and high < 0, and
  all else is `in doubt`. Where the other alone is a total failure, the two are silent.

`holds` means only that no violation above POINTS was seen on these cases.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from freqbench.analysis.statistics import t_intervals
from freqbench.audit.checks.evidence import Attacked, Evidence, Setting, Side
from freqbench.audit.checks.findings import VERDICTS, Finding, Verdict, interval_text, unchecked
from freqbench.core.terminal import amount

POINTS = 0.5
FAILURE = 10.0  # highest foreground DSC x100 that counts as nothing left
LEAST_CLEAN = 20.0  # mean clean foreground DSC x100 below which an attack has nothing to take
SILENT = {
    True: "there are such rows, but the noise alone leaves nothing, or they share no case",
    False: "there are such rows, but none of them takes more than 0.5 points, or they share no case",
}
"""Reasons why existing rows decide nothing, by `strict`: the one must be clearly better."""
Find = Callable[[Attacked], Finding | Iterable[Finding]]


@dataclass(frozen=True, kw_only=True)
class MeanDifference:
    """Mean over cases, in points, with the bounds of its interval over patients; fields are named as in Finding."""

    difference: float
    low: float
    high: float
    cases: int
    patients: int

    @property
    def count(self) -> str:
        """Number of cases and patients, as text."""
        return f"{amount(self.cases, 'case')} of {amount(self.patients, 'patient')}"


def differences(on: Attacked, values: Sequence[pd.Series], comparisons: int = 1) -> dict[int, MeanDifference]:
    """Means of series of cases, `values` in points by case id, by their place, for those that have one, with intervals
    over the patients of the dataset that `on` is of, as one of `comparisons`."""
    parts = [pd.DataFrame({"value": each, "number": number}) for number, each in enumerate(values) if len(each)]
    if not parts:
        return {}
    frame = pd.concat(parts)
    frame = frame.assign(patient_id=on.evidence.patients[on.dataset].reindex(frame.index).to_numpy())
    names = {"mean": "difference", "n": "cases", "clusters": "patients"}
    rows: list[Any] = t_intervals(frame, ["number"], "value", comparisons).rename(columns=names).to_dict("records")
    return {int(row.pop("number")): MeanDifference(**row) for row in rows}


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Pair of attacks: `strong` should hurt at least as much as `weak`; `hint` is the first suspect if it does not."""

    strong: Side
    weak: Side
    hint: str = ""

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two in a sentence: their attacks, or the attacks and the models that they were made on."""
        source, _, attack = self.strong
        other, _, against = self.weak
        return (attack, against) if source == other else (f"{attack} made on {source}", f"{against} made on {other}")


FindContrasts = Callable[[Attacked], Iterable[Contrast]]
FindOne = Callable[[Attacked], Finding]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A contrast with its difference d and the verdict on it; `is_silent` if it decides nothing."""

    contrast: Contrast
    found: MeanDifference
    verdict: Verdict
    is_silent: bool

    @property
    def text(self) -> str:
        """Names the attack that leaves more DSC, and by how many points."""
        strong, weak = self.contrast.names
        d = self.found.difference
        more, other = (strong, weak) if d > 0 else (weak, strong)
        interval = interval_text(self.found.low, self.found.high)
        if abs(d) < 0.05:
            return f"{strong} and {weak} leave the same DSC ({interval}, {self.found.count})"
        bounds = interval if d > 0 else interval_text(-self.found.high, -self.found.low)
        return f"{more} leaves {abs(d):.1f} points more DSC than {other} ({bounds}, {self.found.count})"


def white_box(on: Attacked, strong: Setting, weak: Setting, hint: str = "") -> Contrast:
    """Contrasts two attacks that were made on the model itself: `strong` should hurt at least as much as `weak`; `hint`
    is the first suspect if it does not."""
    place = (on.model, on.model)
    return Contrast(strong=(*place, strong.label), weak=(*place, weak.label), hint=hint)


def judge(on: Attacked, contrasts: Sequence[Contrast], strict: bool = False) -> list[Judged]:
    """Judges contrasts on the model's dataset by their differences; leaves out those without a common case. `strict`:
    the strong one must be clearly better."""
    pairs = [(_of(on, each.strong) - _of(on, each.weak)).dropna() for each in contrasts]
    judged = []
    for number, gap in differences(on, pairs).items():
        strong = contrasts[number].strong
        weak = contrasts[number].weak
        verdict: Verdict = "holds" if not strict or (gap.difference < -POINTS and gap.high < 0) else "in doubt"
        if gap.difference > POINTS and (strict or not _is_total(on, strong)):
            verdict = "violated" if gap.low > 0 else "in doubt"
        drops = (mean_drop(on, _of(on, side), side[1]) for side in (strong, weak))
        is_silent = _is_total(on, weak) if strict else all(drop <= POINTS for drop in drops)
        judged.append(Judged(contrast=contrasts[number], found=gap, verdict=verdict, is_silent=is_silent))
    return judged


def _of(on: Attacked, side: Side, column: str = "dsc") -> pd.Series:
    source, target, label = side
    scores = on.evidence.scores(on.dataset, source, target, column)
    return scores[label] if label in scores else pd.Series(dtype=float)


def mean_drop(on: Attacked, left: pd.Series, target: str) -> float:
    """Mean points of DSC that an attack takes from a model, from the DSC `left` of each case; NaN without clean DSC."""
    return float((on.evidence.clean(on.dataset, target, "clean").reindex(left.index) - left).mean())


def _is_total(on: Attacked, side: Side) -> bool:
    return float(_of(on, side, "fg").mean()) <= FAILURE


def is_none(difference: float, low: float, high: float) -> bool:
    """True for a paired `difference` that is none: at most POINTS, with an interval from `low` to `high` that holds 0,
    or none (NaN)."""
    return abs(difference) <= POINTS and not (low > 0 or high < 0)


def summed(judged: Sequence[Judged], statement: str) -> Finding:
    """Sums up all contrasts of a model, which are `judged`, in one finding: the gravest verdict, worded by its largest
    difference. The statement introduces the comparisons if all hold."""
    verdict = min((each.verdict for each in judged), key=VERDICTS.index)
    worst = max((each for each in judged if each.verdict == verdict), key=lambda each: each.found.difference)
    if verdict == "holds":
        closest = f"; the closest: {worst.text}" if len(judged) > 1 else f": {worst.text}"
        sentence = f"{statement} in {'all ' if len(judged) > 1 else ''}{amount(len(judged), 'comparison')}{closest}."
    else:
        same = sum(each.verdict == verdict for each in judged)
        of_all = f" {same} of {len(judged)} comparisons: {verdict}." if len(judged) > 1 else ""
        sentence = f"{worst.text}.{of_all}{f' {worst.contrast.hint}.' if worst.contrast.hint else ''}"
    return Finding(verdict=verdict, sentence=sentence, comparisons=len(judged), **vars(worst.found))


def per_model(find: Find, spares: bool = False) -> Callable[[Evidence], Iterator[Finding]]:
    """Extends a check of a single model, `find`, to all; `spares` models that it can decide nothing about."""

    def run(evidence: Evidence) -> Iterator[Finding]:
        for on in evidence.models:
            found = unchecked(reason) if (reason := _spared(on) if spares else "") else find(on)
            for finding in [found] if isinstance(found, Finding) else found:
                yield replace(finding, dataset=on.dataset, model=on.model)

    return run


def _spared(on: Attacked) -> str:
    """Reason why nothing can be decided about a model, whatever attacked it; empty if something can."""
    clean = on.clean()
    if len(clean) and clean.mean() < LEAST_CLEAN:
        low = f"the mean clean foreground DSC is {clean.mean():.1f}, below {LEAST_CLEAN:g}"
        return f"{low}: there is nothing to take from this model"
    return "" if on.attacks else "no attack that was made on this model was scored on it"


def contrasted(statement: str, needs: str, strict: bool = False) -> Callable[[FindContrasts], FindOne]:
    """Makes one finding per model from its contrasts, which the decorated function finds. Attacks that raise different
    losses are not compared: the stronger one shows only which loss is better for the DSC, not that gradients are
    masked. Noise raises none, so every attack is compared with it (`strict`: the one must be clearly better).
    `statement` is printed if all hold; `needs` names missing rows."""

    def check(find: FindContrasts) -> FindOne:
        def found(on: Attacked) -> Finding:
            settings = on.evidence.settings
            contrasts = []
            crossed: dict[str, None] = {}
            for each in find(on):
                one, other = (settings[label] for *_, label in (each.strong, each.weak))
                if strict or one.raises == other.raises:
                    contrasts.append(each)
                else:
                    crossed[f"{one.attack} ({one.raises}) and {other.attack} ({other.raises})"] = None
            if judged := [each for each in judge(on, contrasts, strict) if not each.is_silent]:
                return summed(judged, statement)
            if contrasts:
                return unchecked(SILENT[strict])
            losses = f"{', '.join(crossed)} raise different losses, which says nothing of gradients: "
            return unchecked(f"{losses if crossed else ''}needs {needs}")

        return found

    return check


def is_close(a: float | None, b: float | None) -> bool:
    """True if two budgets, `a` and `b`, are the same, up to rounding; None is no budget."""
    return a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6)
