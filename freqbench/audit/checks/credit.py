"""How much of a frequency attack's drop is its optimisation: against its own null rows, with and without stretching.

A null row (`control: uniform` or `random`) makes the same change without a gradient. Drop = clean DSC - DSC; what is
credited to the optimisation is the drop beyond that of the strongest null row, and its share of the whole drop.
"""

from freqbench.analysis.groups import points
from freqbench.audit.checks.contrasts import POINTS, Judged, judge
from freqbench.audit.checks.evidence import Evidence, Setting
from freqbench.audit.checks.findings import HOLDS, IN_DOUBT, NOT_CHECKED, Finding, interval_text
from freqbench.audit.checks.per_model import spared, unchecked, white_box

OPTIMISATION = (
    *("control", "steps", "step_size", "loss", "restarts", "keep", "target", "organs", "targeted"),
    *("ssim_weight", "dice_weight", "reconstruction_weight", "scope"),
)
"""What a null row takes no notice of."""
CONTROLS = ("uniform", "random")


def credit(evidence: Evidence) -> list[Finding]:
    """A frequency attack is clearly stronger than its own null rows."""
    findings = []
    for dataset, model in evidence.models:
        reason = spared(evidence, dataset, model)
        settings = evidence.attacks_on(dataset, model)
        optimised = [each for each in settings if "control" in each.params and each.control == "none" and each.is_plain]
        if reason or not optimised:
            text = reason or "needs a frequency attack (vafa, sa2, faa) and its null rows (control) on this model"
            findings.append(unchecked("credit", dataset, model, text))
            continue
        nulls = [each for each in settings if each.control in CONTROLS]
        findings += [_credited(evidence, dataset, model, attack, nulls) for attack in optimised]
    return findings


def _credited(evidence: Evidence, dataset: str, model: str, attack: Setting, nulls: list[Setting]) -> Finding:
    own = [null for null in nulls if null.same_but(*OPTIMISATION) == attack.same_but(*OPTIMISATION)]
    judged = judge(evidence, [white_box(dataset, model, attack, null) for null in own], strict=True)
    lacking = [name for name in CONTROLS if name not in {null.control for null in own}]
    if not judged:
        text = f"{attack.label}: needs its null rows, the same with control: uniform or random."
        return Finding(
            check="credit", dataset=dataset, model=model, subject=attack.label, verdict=NOT_CHECKED, sentence=text
        )
    nearest = max(judged, key=lambda each: each.difference)
    drops = _drops(evidence, dataset, model, attack, nearest)
    sentence = (
        f"{attack.label}{_stretching(attack)}: drops {points(drops[0])} points; {_names(evidence, judged)} without "
        f"optimisation. {_share(nearest, *drops)}"
    )
    if lacking:
        sentence += f" Not run: control: {', '.join(lacking)}."
    return Finding(
        check="credit",
        dataset=dataset,
        model=model,
        subject=attack.label,
        verdict=nearest.verdict,
        sentence=sentence,
        difference=nearest.difference,
        low=nearest.low,
        high=nearest.high,
        comparisons=len(judged),
        cases=nearest.cases,
        patients=nearest.patients,
    )


def _drops(evidence: Evidence, dataset: str, model: str, attack: Setting, nearest: Judged) -> tuple[float, float]:
    """Mean drops of the attack and of the strongest null row over the cases that both have."""
    scores = evidence.white_box(dataset, model)
    null = nearest.contrast.weak[2]
    both = scores[[attack.label, null]].dropna()
    clean = evidence.clean(dataset, model, "clean").reindex(both.index)
    return float((clean - both[attack.label]).mean()), float((clean - both[null]).mean())


def _share(nearest: Judged, drop: float, null: float) -> str:
    bounds = interval_text(-nearest.high, -nearest.low)
    gain = -nearest.difference
    if nearest.verdict == IN_DOUBT:
        return f"What the optimisation adds, {gain:.1f} points ({bounds}), is not clearly more than {POINTS:g}."
    if nearest.verdict != HOLDS:
        return f"The optimisation takes {-gain:.1f} points of damage away ({bounds})."
    of_drop = f", {100 * min(gain / drop, 1):.0f} % of the drop" if drop > 0 and null > 0 else ""
    return f"The optimisation adds {gain:.1f} points ({bounds}){of_drop}."


def _names(evidence: Evidence, judged: list[Judged]) -> str:
    """Each null row with its own drop."""
    texts = []
    for each in judged:
        contrast = each.contrast
        label = contrast.weak[2]
        scores = evidence.white_box(contrast.dataset, contrast.weak[1])[label].dropna()
        clean = evidence.clean(contrast.dataset, contrast.weak[1], "clean").reindex(scores.index)
        texts.append(f"{evidence.settings[label].control} {points(float((clean - scores).mean()))}")
    return ", ".join(texts)


def _stretching(attack: Setting) -> str:
    """Whether slices are stretched to [0, 1], where the attack can."""
    if attack.attack not in ("vafa", "vafa_2d") and "renormalize" not in attack.params:
        return ""
    given = attack.params.get("renormalize")
    stretches = attack.variant != "paper" if given is None else given
    return " (slices stretched)" if stretches else " (slices not stretched)"
