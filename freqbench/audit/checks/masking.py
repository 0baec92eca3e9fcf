"""Is an attack on a model as strong as it must be? Where not, its gradients are masked or its setting is wrong.

What every evaluation of robustness is asked to show: Carlini, Athalye, Papernot, Brendel, Rauber, Tsipras, Goodfellow,
Madry, Kurakin 2019, arXiv:1902.06705 (sections 4 and 5); Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420 (section
3.1, the five signs of obfuscated gradients); Croce and Hein, ICML 2020, arXiv:2003.01690; for segmentation Croce,
Singh, Hein, ECCV 2024, arXiv:2306.12941. They speak of accuracy; here it is DSC, paired by case, with the rule of
`contrasts`. Only attacks that raise the same loss are compared (`per_model.by_contrasts`). That these behave does not
make them strong: `strongest` looks at that.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pandas as pd

from freqbench.analysis.statistics import t_intervals
from freqbench.audit.checks.contrasts import FAILURE, Contrast, is_close
from freqbench.audit.checks.evidence import Evidence, Setting
from freqbench.audit.checks.findings import (
    HOLDS,
    IN_DOUBT,
    NOTED,
    VERDICTS,
    VIOLATED,
    Finding,
    counted,
    interval_text,
)
from freqbench.audit.checks.per_model import by_contrasts, families, linf, spared, unchecked, white_box

SINGLE_STEP = frozenset({"fgsm"})
ITERATIVE = frozenset({"bim", "pgd", "apgd", "segpgd", "cospgd"})
"""Made to be strong on the model itself; those made for transfer (SSA, MI-FGSM, DI, TI) may be weaker than one step."""
BLACK_BOX = frozenset({"square"})
FEWEST_QUERIES = 1000
"""A search that ends before has hardly begun: that it does not beat gradients proves nothing. That it does, does."""
EFFORTS = ("steps", "queries")


def budget(evidence: Evidence) -> list[Finding]:
    """A larger budget of the same attack hurts more."""
    needs = "two budgets of one attack on this model"
    return by_contrasts("budget", evidence, _budgets, "A larger budget leaves no more DSC", needs)


def _budgets(evidence: Evidence, dataset: str, model: str) -> Iterator[Contrast]:
    found = [each for each in evidence.attacks_on(dataset, model) if each.budget is not None and each.is_gradient]
    for family in families(found, "budget"):
        for less, more in pairwise(sorted(family, key=lambda each: each.budget or 0)):
            if not is_close(less.budget, more.budget):
                yield white_box(dataset, model, more, less)


def steps(evidence: Evidence) -> list[Finding]:
    """More steps, or queries, of the same attack hurt more."""
    needs = "one attack with two numbers of steps on this model"
    return by_contrasts("steps", evidence, _steps, "More steps of the same loss leave no more DSC", needs)


def _steps(evidence: Evidence, dataset: str, model: str) -> Iterator[Contrast]:
    for effort in EFFORTS:
        found = [each for each in evidence.attacks_on(dataset, model) if effort in each.params and each.is_plain]
        found = [each for each in found if each.control == "none"]
        for family in families(found, effort):
            for less, more in pairwise(sorted(family, key=lambda each: float(each.params[effort]))):
                if less.params[effort] != more.params[effort]:
                    yield white_box(dataset, model, more, less)


def unbounded(evidence: Evidence) -> list[Finding]:
    """With every intensity allowed, the strongest L-infinity attack leaves nothing of the foreground."""
    findings = []
    for dataset, model in evidence.models:
        if reason := spared(evidence, dataset, model):
            findings.append(unchecked("unbounded", dataset, model, reason))
            continue
        scores = evidence.white_box(dataset, model, "fg")
        free = [each.label for each in linf(evidence, dataset, model) if each.budget and each.budget > 0.999]
        free = [label for label in free if label in scores and scores[label].notna().any()]
        if not free:
            reason = "needs an L-infinity gradient attack with eps=1 on this model, and the metric dsc"
            findings.append(unchecked("unbounded", dataset, model, reason))
            continue
        label = min(free, key=lambda each: (-scores[each].count(), scores[each].mean()))
        patients = evidence.patients[dataset].reindex(scores.index)
        frame = pd.DataFrame({"model": model, "left": scores[label], "patient_id": patients})
        left: Any = next(t_intervals(frame, ["model"], "left").itertuples())
        exceeds, excludes = left.mean > FAILURE, left.low > FAILURE
        verdict = (VIOLATED if excludes else IN_DOUBT) if exceeds else HOLDS
        text = (
            f"Without a bound {label} leaves a foreground DSC of {left.mean:.1f} "
            f"({interval_text(left.low, left.high)}, {counted(left.n, 'case')}); up to {FAILURE:g} is a total failure"
        )
        hint = ": gradients that lead nowhere, or too few steps." if exceeds else "."
        findings.append(
            Finding(
                check="unbounded",
                dataset=dataset,
                model=model,
                verdict=verdict,
                sentence=text + hint,
                difference=left.mean - FAILURE,
                low=left.low - FAILURE,
                high=left.high - FAILURE,
                comparisons=1,
                cases=left.n,
                patients=left.clusters,
            )
        )
    return findings


def iterative(evidence: Evidence) -> list[Finding]:
    """Many small steps are no weaker than the one large step of FGSM at equal eps."""
    needs = "fgsm and one of bim, pgd, apgd that raises the same loss, at equal eps on this model"
    return by_contrasts("iterative", evidence, _iterative, "Iterative attacks leave no more DSC than one step", needs)


def _iterative(evidence: Evidence, dataset: str, model: str) -> Iterator[Contrast]:
    """Of attacks that differ in their steps alone the one with most: few steps are what `steps` is about."""
    found = linf(evidence, dataset, model)
    repeated = sorted(
        (each for each in found if each.attack in ITERATIVE), key=lambda each: each.params.get("steps", 0)
    )
    longest = {each.same_but("steps"): each for each in repeated}.values()
    for single in (each for each in found if each.attack in SINGLE_STEP):
        for many in (each for each in longest if is_close(each.budget, single.budget)):
            if many.params.get("scope") == single.params.get("scope"):
                yield white_box(dataset, model, many, single, _about_step(many))


def _about_step(setting: Setting) -> str:
    """The first suspect: the papers' tables have PGD and BIM behind FGSM on UNETR++, with a step of 64 % of eps."""
    step = setting.params.get("step_size")
    if isinstance(step, str):
        return f"First suspect: the step size, {step}, then the number of steps"
    if not isinstance(step, int | float) or not setting.budget:
        return "First suspects: step size and number of steps"
    return f"First suspect: the step size, {step:g}, which is {100 * step / setting.budget:.0f} % of eps"


def transfer(evidence: Evidence) -> list[Finding]:
    """An attack made on the model itself is no weaker than the same attack made on another."""
    needs = "the same gradient attack made on this model and on another one, both scored on it (targets: all)"
    return by_contrasts("transfer", evidence, _transfers, "White-box leaves no more DSC than transfer", needs)


def _transfers(evidence: Evidence, dataset: str, model: str) -> Iterator[Contrast]:
    for own in evidence.attacks_on(dataset, model):
        for other in evidence.models_of(dataset) if own.is_gradient else ():
            if other != model and own.label in evidence.scores(dataset, other, model):
                yield Contrast(
                    dataset=dataset, strong=(model, model, own.label), weak=(other, model, own.label), hint=_NEITHER
                )


_NEITHER = "Its own gradients are of less use than another model's"


def square(evidence: Evidence) -> list[Finding]:
    """A search without gradients does not beat the strongest gradient attack of equal eps that raises the same loss."""
    needs = f"square of {FEWEST_QUERIES:,} queries and a gradient attack of the same loss at equal eps on this model"
    statement = "The strongest gradient attack leaves no more DSC than a search without gradients"
    thorough = by_contrasts("square", evidence, partial(_squares, is_short=False), statement, needs)
    short = by_contrasts("square", evidence, partial(_squares, is_short=True), statement, needs)
    return [min(long, _proves_nothing(few), key=_gravity) for long, few in zip(thorough, short, strict=True)]


def _gravity(finding: Finding) -> int:
    return VERDICTS.index(finding.verdict)


def _proves_nothing(finding: Finding) -> Finding:
    """Of searches with too few queries: where they do not win."""
    if finding.verdict != HOLDS:
        return finding
    text = f"A search of less than {FEWEST_QUERIES:,} queries proves nothing by not beating gradients"
    return replace(finding, verdict=NOTED, sentence=f"{text}: {finding.sentence}")


def _squares(evidence: Evidence, dataset: str, model: str, is_short: bool) -> Iterator[Contrast]:
    scores = evidence.white_box(dataset, model)
    searches = [each for each in evidence.attacks_on(dataset, model) if each.attack in BLACK_BOX and each.is_plain]
    for search in searches:
        if (int(search.params.get("queries", 0)) < FEWEST_QUERIES) != is_short:
            continue
        rivals = [each for each in linf(evidence, dataset, model) if is_close(each.budget, search.budget)]
        rivals = [each for each in rivals if each.raises == search.raises] or rivals
        behind = {each.label: (scores[each.label] - scores[search.label]).dropna() for each in rivals}
        rivals = [each for each in rivals if len(behind[each.label])]
        if rivals:
            best = min(rivals, key=lambda each: (-len(behind[each.label]), float(behind[each.label].mean())))
            yield white_box(dataset, model, best, search, "A search that knows no gradient does better")
