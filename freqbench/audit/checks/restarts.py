"""Does one run of an attack say who is more robust, or does it take several?"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from freqbench.audit.checks.contrasts import POINTS, Contrast, judge, summed
from freqbench.audit.checks.evidence import Evidence
from freqbench.audit.checks.findings import HOLDS, IN_DOUBT, NOTED, VIOLATED, Finding
from freqbench.audit.checks.per_model import SILENT, families, spared, unchecked, white_box


def restarts(evidence: Evidence) -> list[Finding]:
    """The order of the models is the same with one restart of an attack and with several."""
    findings = []
    for dataset, model in evidence.models:
        reason = spared(evidence, dataset, model)
        pairs = [] if reason else list(_restarted(evidence, dataset, model))
        judged = [each for each in judge(evidence, pairs) if not each.is_silent]
        if not judged:
            reason = reason or (SILENT[False] if pairs else "needs one attack with 1 and with 3 restarts on this model")
            findings.append(unchecked("restarts", dataset, model, reason))
            continue
        gain = max(judged, key=lambda each: abs(each.difference))
        found = summed("restarts", dataset, model, judged, "More restarts leave no more DSC")
        swaps = [swap for pair in (each.contrast for each in judged) for swap in _swaps(evidence, dataset, model, pair)]
        others = [other for other in evidence.models_of(dataset) if other != model]
        size = f"the largest effect of restarts is {abs(gain.difference):.1f} points"
        if swaps:
            verdict = VIOLATED if any(is_sure for _, is_sure in swaps) else IN_DOUBT
            sentence = f"{'; '.join(dict.fromkeys(text for text, _ in swaps))} ({size}): one restart is not enough."
        elif not others and found.verdict == HOLDS:
            verdict, sentence = NOTED, f"One model, so there is no order to change; {size}."
        else:
            same = " Its place among the models is the same;" if others else ""
            verdict, sentence = found.verdict, f"{found.sentence}{same} {size}."
        findings.append(replace(found, verdict=verdict, sentence=sentence))
    return findings


def _restarted(evidence: Evidence, dataset: str, model: str) -> Iterator[Contrast]:
    found = [each for each in evidence.attacks_on(dataset, model) if each.is_gradient and "restarts" in each.params]
    for family in families(found, "restarts"):
        for less, more in pairwise(sorted(family, key=lambda each: int(each.params["restarts"]))):
            if less.params["restarts"] != more.params["restarts"]:
                yield white_box(dataset, model, more, less)


def _swaps(evidence: Evidence, dataset: str, model: str, pair: Contrast) -> Iterator[tuple[str, bool]]:
    """Models that change places with this one when restarts are added, and whether both orders are beyond doubt."""
    for other in evidence.models_of(dataset):
        if other == model:
            continue
        orders = [
            judge(evidence, [Contrast(dataset=dataset, strong=(model, model, label), weak=(other, other, label))])
            for label in (pair.weak[2], pair.strong[2])
        ]
        if not all(orders):
            continue
        few, many = (order[0] for order in orders)
        if few.difference * many.difference < 0 and min(abs(few.difference), abs(many.difference)) > POINTS:
            is_sure = all(order.low > 0 or order.high < 0 for order in (few, many))
            yield f"{model} and {other} change places between {pair.weak[2]} and {pair.strong[2]}", is_sure
