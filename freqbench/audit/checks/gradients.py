"""Looks for signs of masked gradients: attacks weaker than they must be, and gradients that are missing.

Requirements for every evaluation of robustness: Carlini, Athalye, Papernot, Brendel, Rauber, Tsipras, Goodfellow,
Madry, Kurakin 2019, arXiv:1902.06705 (sections 4 and 5); Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420 (section
3.1, the five signs of obfuscated gradients); Croce and Hein, ICML 2020, arXiv:2003.01690; for segmentation Croce,
Singh, Hein, ECCV 2024, arXiv:2306.12941. They speak of accuracy; here it is DSC, paired by case, with the rule of
`contrasts`. Passing these checks does not make attacks strong: `strongest` looks at that.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise

import numpy as np

from freqbench.audit.checks import contrasts
from freqbench.audit.checks.contrasts import Contrast, contrasted, differences, is_close, judge, summed, white_box
from freqbench.audit.checks.evidence import Attacked, Setting
from freqbench.audit.checks.findings import VERDICTS, Finding, Verdict, interval_text, unchecked
from freqbench.audit.probe_files import GradientFacts, Gradients, share_at_end
from freqbench.core.terminal import amount
from freqbench.results.schema import CAUTIONS, OF_GRADIENTS

ITERATIVE = frozenset({"bim", "pgd", "apgd", "segpgd", "cospgd"})
"""Attacks made to be strong on the model itself; those made for transfer (SSA, MI-FGSM, DI, TI) may be weaker."""
FEWEST_QUERIES = 1000
"""Queries below which a search has hardly begun: losing to gradients then proves nothing, beating them does."""
ZERO_SHARES = (0.1, 0.5)
AGREEMENTS = (0.999, 0.99)
"""Sums in another order flip a few signs in ten thousand, on a GPU also between two equal passes."""
RISES = (0.05, 0.1)
NOT_MEASURED = "needs audit --run, which measures it"


@contrasted("A larger budget leaves no more DSC", needs="two budgets of one attack on this model")
def budget(on: Attacked) -> Iterator[Contrast]:
    """Checks that a larger budget of the same attack hurts more."""
    budgets = {each: each.budget for each in on.attacks if each.budget is not None and each.is_gradient}
    return _steps_up(on, "budget", budgets)


@contrasted("More steps of the same loss leave no more DSC", needs="one attack with two numbers of steps on this model")
def steps(on: Attacked) -> Iterator[Contrast]:
    """Checks that more steps, or queries, of the same attack hurt more."""
    plain = [each for each in on.attacks if each.is_plain and each.control == "none"]
    for effort in ("steps", "queries"):
        yield from _steps_up(on, effort, {each: each.params[effort] for each in plain if effort in each.params})


def _steps_up(on: Attacked, parameter: str, values: Mapping[Setting, float]) -> Iterator[Contrast]:
    """Contrasts each value of a parameter with the next larger one, for attacks that differ in nothing else."""
    families: dict[Hashable, list[Setting]] = {}
    for setting in values:
        families.setdefault(setting.same_but(parameter), []).append(setting)
    for family in families.values():
        for less, more in pairwise(sorted(family, key=values.__getitem__)):
            if not is_close(values[less], values[more]):
                yield white_box(on, more, less)


def unbounded(on: Attacked) -> Finding:
    """Checks that without a bound the strongest L-infinity attack leaves nothing of the foreground."""
    scores = on.scores("fg")
    free = [each.label for each in on.linf if each.budget and each.budget > 0.999]
    if not (free := [label for label in free if label in scores and scores[label].notna().any()]):
        return unchecked("needs an L-infinity gradient attack with eps=1 on this model, and the metric dsc")
    label = min(free, key=lambda each: (-scores[each].count(), scores[each].mean()))
    left = differences(on, [scores[label].dropna()])[0]
    exceeds = left.difference > contrasts.FAILURE
    interval = interval_text(left.low, left.high)
    verdict: Verdict = ("violated" if left.low > contrasts.FAILURE else "in doubt") if exceeds else "holds"
    sentence = (
        f"Without a bound {label} leaves a foreground DSC of {left.difference:.1f} ({interval}, "
        f"{amount(left.cases, 'case')}); up to {contrasts.FAILURE:g} is a total failure"
        f"{': gradients that lead nowhere, or too few steps' if exceeds else ''}."
    )
    beyond = {name: getattr(left, name) - contrasts.FAILURE for name in ("difference", "low", "high")}
    return Finding(verdict=verdict, sentence=sentence, comparisons=1, **(vars(left) | beyond))


@contrasted(
    "Iterative attacks leave no more DSC than one step",
    needs="fgsm and one of bim, pgd, apgd that raises the same loss, at equal eps on this model",
)
def iterative(on: Attacked) -> Iterator[Contrast]:
    """Checks that many small steps are no weaker than the one large step of FGSM at equal eps. Among attacks that
    differ only in their steps, the one with most counts: `steps` looks at few steps."""
    repeated = [each for each in on.linf if each.attack in ITERATIVE]
    repeated.sort(key=lambda each: each.params.get("steps", 0))
    longest = {each.same_but("steps"): each for each in repeated}.values()
    for single in (each for each in on.linf if each.attack == "fgsm"):
        for many in (each for each in longest if is_close(each.budget, single.budget)):
            if many.params.get("scope") == single.params.get("scope"):
                yield white_box(on, many, single, _about_step(many))


def _about_step(setting: Setting) -> str:
    """Names the first suspect: in the papers, PGD and BIM with steps of 64 % of eps are behind FGSM on UNETR++."""
    step = setting.params.get("step_size")
    if isinstance(step, str):
        return f"First suspect: the step size, {step}, then the number of steps"
    if not isinstance(step, int | float) or not setting.budget:
        return "First suspects: step size and number of steps"
    return f"First suspect: the step size, {step:g}, which is {100 * step / setting.budget:.0f} % of eps"


@contrasted(
    "White-box leaves no more DSC than transfer",
    needs="the same gradient attack made on this model and on another one, both scored on it (targets: all)",
)
def transfer(on: Attacked) -> Iterator[Contrast]:
    """Checks that an attack made on the model itself is no weaker than the same attack made on another."""
    for attack in (each for each in on.attacks if each.is_gradient):
        for other in on.others:
            if attack.label in on.evidence.scores(on.dataset, other, on.model):
                yield Contrast(
                    strong=(on.model, on.model, attack.label),
                    weak=(other, on.model, attack.label),
                    hint="Its own gradients are of less use than another model's",
                )


def square(on: Attacked) -> Finding:
    """Checks that a search without gradients does not beat the strongest gradient attack of equal eps and loss."""
    check = contrasted(
        "The strongest gradient attack leaves no more DSC than a search without gradients",
        needs=f"square of {FEWEST_QUERIES:,} queries and a gradient attack of the same loss at equal eps on this model",
    )
    thorough, short = (check(partial(_searches, is_short=is_short))(on) for is_short in (False, True))
    if short.verdict == "holds":
        text = f"A search of less than {FEWEST_QUERIES:,} queries proves nothing by not beating gradients"
        short = replace(short, verdict="noted", sentence=f"{text}: {short.sentence}")
    return min(thorough, short, key=lambda each: VERDICTS.index(each.verdict))


def _searches(on: Attacked, is_short: bool) -> Iterator[Contrast]:
    scores = on.scores()
    for search in (each for each in on.attacks if each.attack == "square" and each.is_plain):
        if (int(search.params.get("queries", 0)) < FEWEST_QUERIES) != is_short:
            continue
        rivals = [each for each in on.linf if is_close(each.budget, search.budget)]
        rivals = [each for each in rivals if each.raises == search.raises] or rivals
        behind = {each.label: (scores[each.label] - scores[search.label]).dropna() for each in rivals}
        if rivals := [each for each in rivals if len(behind[each.label])]:
            best = min(rivals, key=lambda each: (-len(behind[each.label]), float(behind[each.label].mean())))
            yield white_box(on, best, search, "A search that knows no gradient does better")


def restarts(on: Attacked) -> Finding:
    """Checks that the order of the models is the same with one restart of an attack and with several."""
    counts = {each: each.params["restarts"] for each in on.attacks if each.is_gradient and "restarts" in each.params}
    pairs = list(_steps_up(on, "restarts", counts))
    if not (judged := [each for each in judge(on, pairs) if not each.is_silent]):
        needs = "needs one attack with 1 and with 3 restarts on this model"
        return unchecked(contrasts.SILENT[False] if pairs else needs)
    size = f"the largest effect of restarts is {max(abs(each.found.difference) for each in judged):.1f} points"
    finding = summed(judged, "More restarts leave no more DSC")
    verdict = finding.verdict
    if swaps := list(chain.from_iterable(_swaps(on, each.contrast) for each in judged)):
        verdict = "violated" if any(is_sure for _, is_sure in swaps) else "in doubt"
        sentence = f"{'; '.join(dict(swaps))} ({size}): one restart is not enough."
    elif not on.others and finding.verdict == "holds":
        verdict = "noted"
        sentence = f"One model, so there is no order to change; {size}."
    else:
        sentence = f"{finding.sentence}{' Its place among the models is the same;' if on.others else ''} {size}."
    return replace(finding, verdict=verdict, sentence=sentence)


def _swaps(on: Attacked, pair: Contrast) -> Iterator[tuple[str, bool]]:
    """Names models that change places with this one when restarts are added; true if both orders are beyond doubt."""
    labels = (pair.weak[2], pair.strong[2])
    for other in on.others:
        sides = [((on.model, on.model, label), (other, other, label)) for label in labels]
        orders = [each.found for each in judge(on, [Contrast(strong=own, weak=theirs) for own, theirs in sides])]
        if len(orders) < len(labels):
            continue
        few, many = orders
        if few.difference * many.difference < 0 and min(abs(few.difference), abs(many.difference)) > contrasts.POINTS:
            is_sure = all(order.low > 0 or order.high < 0 for order in orders)
            yield f"{on.model} and {other} change places between {labels[0]} and {labels[1]}", is_sure


def zero_gradients(on: Attacked) -> Finding:
    """Checks that the gradient is not exactly zero, neither where attacks went nor at clean voxels."""
    reasons = on.rows["caution"].astype(object).str.split(CAUTIONS).explode()
    reasons = reasons[reasons.str.contains(OF_GRADIENTS, na=False)]
    if (cautious := on.rows.loc[reasons.index].assign(caution=reasons)).size:
        affected = cautious.groupby("label").size() / on.rows.groupby("label").size()
        label = str(affected.idxmax())
        share = float(affected.max())
        reason = cautious.loc[cautious["label"] == label, "caution"].iloc[0]
        sentence = f"{100 * share:.1f} % of the rows of {label} say: {reason}."
        return Finding(verdict=_graded(share, *ZERO_SHARES), sentence=sentence, cases=cautious["case_id"].nunique())
    if not (windows := _windows(on)):
        return unchecked(NOT_MEASURED)
    errors = [window.error for window in windows if window.zero_share is None]
    shares = [window.zero_share for window in windows if window.zero_share is not None]
    share = float(np.mean(shares)) if shares else 1.0
    text = f"{100 * share:.1f} % of voxels have a gradient of exactly 0 or none that is finite, over {_count(windows)}"
    if errors:
        text = f"No gradient in {len(errors)} of {len(windows)} windows: {errors[0]}"
    return _fact("violated" if errors else _graded(share, *ZERO_SHARES), text, windows)


def same_gradients(on: Attacked) -> Finding:
    """Checks that two gradients at the same point have the same signs."""
    windows = _windows(on)
    if not (shares := [window.sign_agreement for window in windows if window.sign_agreement is not None]):
        return unchecked("no voxel has a gradient" if windows else NOT_MEASURED)
    share = float(np.mean(shares))
    verdict = _graded(1 - share, *(1 - limit for limit in AGREEMENTS))
    text = f"{100 * share:.2f} % of the signs of two gradients at the same point agree, over {_count(windows)}"
    if (draws := max(window.draws or 0 for window in windows)) > 1 and verdict != "holds":
        verdict = "noted"
        text += f": the defence draws at random, and attacks average {draws} draws at every pass"
    elif verdict == "violated":
        text += ": the model draws at random, so average gradients over its draws before believing an attack"
    return _fact(verdict, text, windows)


def converged(on: Attacked) -> Finding:
    """Checks that the loss of PGD hardly rises any more in the last tenth of its steps."""
    windows = _windows(on)
    shares = [share_at_end(window.losses) for window in windows if window.losses]
    if not (shares := [share for share in shares if not math.isnan(share)]):
        return unchecked("no loss rose at all, so there is no curve to look at" if windows else NOT_MEASURED)
    share = float(np.median(shares))
    verdict = _graded(share, *RISES)
    sizes = sorted({window.eps for window in windows})
    radii = ", ".join(f"{eps * 255:.3g}/255" for eps in sizes)
    probe = _probes(on)[-1]
    text = (
        f"The last tenth of {probe.steps} steps (pgd eps={radii} step_size={probe.step_size}) "
        f"makes {100 * share:.1f} % of the loss's whole rise, by the median over {_count(windows)}"
    )
    if verdict != "holds":
        text += ": more steps would hurt more, so these numbers are too kind to the model"
    else:
        text += "; whether another loss or optimiser does more is a check of its own"
    return _fact(verdict, text, windows)


def _windows(on: Attacked) -> list[GradientFacts]:
    return list(chain.from_iterable(probe.windows for probe in _probes(on)))


def _probes(on: Attacked) -> list[Gradients]:
    """Measurements of the model's gradients, one per store, reduced to its own windows."""
    ids = on.evidence.records[["target_model", "target_model_id"]].drop_duplicates()
    model_ids = {str(key) for name, key in ids.itertuples(index=False, name=None) if name == on.model}
    probes = []
    for probe in on.evidence.gradients:
        windows = tuple(each for each in probe.windows if each.dataset == on.dataset and each.model_id in model_ids)
        if windows:
            probes.append(probe.model_copy(update={"windows": windows}))
    return probes


def _graded(value: float, doubtful: float, wrong: float) -> Verdict:
    return "violated" if value > wrong else "in doubt" if value > doubtful else "holds"


def _count(windows: Sequence[GradientFacts]) -> str:
    return f"{amount(len(windows), 'window')} of {amount(len({window.case_id for window in windows}), 'case')}"


def _fact(verdict: Verdict, text: str, windows: Sequence[GradientFacts]) -> Finding:
    cases = len({window.case_id for window in windows})
    return Finding(verdict=verdict, sentence=f"{text}.", comparisons=len(windows), cases=cases)
