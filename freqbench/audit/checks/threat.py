"""Do changes stay within what the threat model declares, how far do they go, and is nothing ranked across them?"""

import math

import pandas as pd

from freqbench.audit.checks.evidence import Evidence, Setting
from freqbench.audit.checks.findings import HOLDS, NOTED, VIOLATED, Finding, counted
from freqbench.audit.checks.per_model import unchecked

SLACK = 1e-6
"""On the [0, 1] intensity scale, as attacks are checked."""
RANGES = ("linf", "l2_body", "ssim_body", "lpips_body")


def bounds(evidence: Evidence) -> list[Finding]:
    """No change is larger than its budget allows, where the budget is a norm of the change."""
    findings = []
    for dataset, model in evidence.models:
        settings = [each for each in evidence.attacks_on(dataset, model) if _bounded(each)]
        excesses = [
            (setting, excess) for setting in settings if len(excess := _excess(evidence, dataset, model, setting))
        ]
        if not excesses:
            text = "needs an attack on this model whose budget is an L-infinity or L2 norm, without a filter"
            findings.append(unchecked("bounds", dataset, model, text))
            continue
        count = sum(len(excess) for _, excess in excesses)
        beyond = [(setting, excess[excess > SLACK]) for setting, excess in excesses if (excess > SLACK).any()]
        text = (
            f"The measured norm of {counted(count, 'volume')} of {counted(len(excesses), 'attack')} is within budget."
        )
        if beyond:
            setting, worst = max(beyond, key=lambda each: float(each[1].max()))
            text = (
                f"{counted(sum(len(excess) for _, excess in beyond), 'volume')} of {count} lie outside their budget, "
                f"the farthest by {float(worst.max()):.3g} on the [0, 1] scale ({setting.label})."
            )
        findings.append(
            Finding(
                check="bounds",
                dataset=dataset,
                model=model,
                verdict=VIOLATED if beyond else HOLDS,
                sentence=text,
                comparisons=count,
            )
        )
    return findings


def _bounded(setting: Setting) -> bool:
    return setting.threat_model in ("linf", "l2") and setting.budget is not None and "filter" not in setting.params


def _excess(evidence: Evidence, dataset: str, model: str, setting: Setting) -> pd.Series:
    """What each volume's norm is beyond its budget.

    An L2 budget is a window's: that of a volume is at most its square root of the number of windows.
    """
    rows = evidence.rows
    own = rows[(rows["dataset"] == dataset) & (rows["source_model"] == model) & (rows["target_model"] == model)]
    own = own[own["label"] == setting.label]
    budget = setting.budget or 0.0
    if setting.threat_model == "linf":
        return (own["linf"] - budget).dropna()
    return (own["l2"] - budget * own["num_windows"].clip(lower=1) ** 0.5 * (1 + SLACK)).dropna()


def distances(evidence: Evidence) -> list[Finding]:
    """How far each attack goes, whatever its budget is called."""
    findings = []
    rows = evidence.rows.drop_duplicates(["dataset", "source_model", "label", "case_id", "seed"])
    for (dataset, label), own in rows.groupby(["dataset", "label"]):
        setting = evidence.settings[str(label)]
        texts = [text for name in RANGES if (text := _range(own[name], name))]
        bound = "" if setting.budget is None else f" bounded by {setting.budget_name}"
        findings.append(
            Finding(
                check="distances",
                dataset=str(dataset),
                subject=str(label),
                verdict=NOTED,
                sentence=f"{setting.threat_model}{bound}: {', '.join(texts) or 'no distance was measured'}.",
                comparisons=len(own),
                cases=own["case_id"].nunique(),
                patients=own["patient_id"].nunique(),
            )
        )
    return findings


_SHOWN = {
    "linf": ("L-inf", 255.0, "/255", 1),
    "l2_body": ("L2 in the body", 1.0, "", 1),
    "ssim_body": ("SSIM in the body", 100.0, "", 1),
    "lpips_body": ("LPIPS in the body", 100.0, "", 1),
}


def _range(values: pd.Series, name: str) -> str:
    """The least and the largest value in the tables' unit; LPIPS as 1 - distance."""
    low, high = float(values.min()), float(values.max())
    if math.isnan(low):
        return ""
    if name == "lpips_body":
        low, high = 1 - high, 1 - low
    title, factor, unit, digits = _SHOWN[name]
    texts = [f"{factor * value:.{digits}f}" for value in (low, high)]
    return f"{title} {texts[0] if texts[0] == texts[1] else ' to '.join(texts)}{unit}"


def ranking(evidence: Evidence) -> list[Finding]:
    """No table ranks rows of several threat models."""
    findings = []
    for dataset in sorted({name for name, _ in evidence.models}):
        own = evidence.rows[evidence.rows["dataset"] == dataset]
        threats = sorted({evidence.settings[label].threat_model for label in own["label"].unique()})
        if len(threats) == 1:
            verdict, text = HOLDS, f"All rows are of one threat model, {threats[0]}."
        else:
            verdict = NOTED
            text = (
                f"The rows are of {len(threats)} threat models ({', '.join(threats)}), which bound different things: "
                "leaderboard, worst case and transfer rank within one only, and no table marks a best across them."
            )
        findings.append(Finding(check="ranking", dataset=dataset, verdict=verdict, sentence=text))
    return findings
