"""States facts of labels, metrics and budgets that decide the meaning of their numbers."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd

from freqbench.analysis import certificates
from freqbench.analysis.frames import joined_classes, plain
from freqbench.analysis.groups import by_dataset, is_counted
from freqbench.attacks.core.norms import RMS_BUDGETS
from freqbench.audit.checks.evidence import Attacked, Evidence, Setting
from freqbench.audit.checks.findings import Finding, Verdict, unchecked
from freqbench.core.terminal import amount
from freqbench.core.types import AGREEMENT, LOST
from freqbench.results.schema import CAUTIONS

CLEAN_FLOOR = 50.0
SAVED_POINTS = 0.5
DECIDING = 1000  # draws of an attacked volume
SLACK = 1e-6  # on the [0, 1] intensity scale, as attacks are checked
_SHOWN = {
    "linf": ("L-inf", 255.0, "/255"),
    "l2_body": ("L2 in the body", 1.0, ""),
    "ssim_body": ("SSIM in the body", 100.0, ""),
    "lpips_body": ("1-LPIPS x100 in the body", 100.0, ""),
}
"""Distances with their title, factor and unit in tables."""


def clean(on: Attacked) -> Finding:
    """Checks that the clean score of each volume is above a floor."""
    scores = on.clean()
    if on.dataset.endswith(AGREEMENT):
        return unchecked("needs labels: agreement of a clean prediction with itself is perfect by construction")
    if scores.empty:
        return unchecked("needs the metric dsc")
    low = scores[scores < CLEAN_FLOOR].sort_values()
    text = f"{len(low)} of {amount(len(scores), 'case')} have a clean foreground DSC below {CLEAN_FLOOR:g}"
    if len(low):
        listed = ", ".join(f"{case} {value:.1f}" for case, value in low.head(3).items())
        text += f" ({listed}): drops there say little about robustness"
    return Finding(verdict="violated" if len(low) else "holds", sentence=f"{text}.", cases=len(scores))


def organs(evidence: Evidence) -> Iterator[Finding]:
    """Checks that every label map has every class, and that the way to the grid has not removed its voxels."""
    if evidence.classes is None:
        yield from _unread(evidence)
    for dataset, group in _classes(evidence):
        labels = group.drop_duplicates(["case_id", "class_index"])
        lost = _lost(evidence, dataset)
        absent = labels[labels["label_voxels"] == 0]
        of_case = zip(absent.case_id, absent.class_name, strict=True)
        absent = absent[[f"`{name}`" not in lost.get(case, "") for case, name in of_case]]
        cases = labels["case_id"].nunique()
        parts = list[str]()
        verdict: Verdict = "violated" if lost else "noted" if len(absent) else "holds"
        if lost:
            case, reason = next(iter(lost.items()))
            parts.append(
                f"Of {amount(cases, 'case')} {len(lost)} lost label voxels on the way to the grid that is scored "
                f"({case}: {reason.removeprefix(LOST)}), so that no score counts them: keep them by crop_foreground, "
                "spacing or size, or score on the file's own grid (score_on: file)."
            )
        if len(absent):
            counts = sorted(absent["class_name"].value_counts().items())
            parts.append(
                f"Of {amount(cases, 'case')} the label lacks: "
                f"{', '.join(f'{name} in {count}' for name, count in counts)}. Such a class drops out of the mean of "
                "its case, or counts 0 where it is predicted."
            )
        text = " ".join(parts) or f"Every class is in the label of each of {amount(cases, 'case')}."
        yield Finding(dataset=dataset, verdict=verdict, sentence=text, cases=cases)


def _lost(evidence: Evidence, dataset: str) -> dict[str, str]:
    """Returns by case the reasons of its rows that say that label voxels are lost."""
    rows = evidence.rows[(evidence.rows["dataset"] == dataset) & evidence.rows["caution"].notna()]
    rows = rows[["case_id", "caution"]].astype(object).drop_duplicates().set_index("case_id")
    reasons = rows["caution"].str.split(CAUTIONS).explode()
    reasons = reasons[reasons.str.startswith(LOST)]
    return {str(case): CAUTIONS.join(each.unique()) for case, each in reasons.groupby(level=0, sort=False)}


def hd95(on: Attacked) -> Finding:
    """Checks that HD95 is defined for every class of every attacked volume."""
    if (rows := on.rows[on.rows["hd95_undefined_classes"].notna()]).empty:
        return unchecked("needs the metric hd95")
    share = rows["hd95_undefined_classes"].sum() / rows["num_classes"].sum()
    text = f"{100 * share:.1f} % of the classes of {amount(len(rows), 'attacked volume')} have no HD95"
    if share > 0:
        text += " and drop out of its mean, so a stronger attack can look better there: read hd95_penalised beside"
    return _of_rows("noted" if share > 0 else "holds", text, rows)


def background(evidence: Evidence) -> Iterator[Finding]:
    """Checks that the remaining DSC is not mostly the background's."""
    if evidence.classes is None:
        yield from _unread(evidence)
        return
    shares: dict[tuple[str, str], pd.Series] = {}
    for dataset, group in _classes(evidence):
        group = group[(group["source_model"] == group["target_model"]) & group["dsc"].notna()]
        volume = ["target_model", "label", "case_id", "seed"]
        sums = group.groupby(volume, dropna=False)["dsc"].sum()
        first = group[group["class_index"] == 0].groupby(volume, dropna=False)["dsc"].sum()
        shares |= {(dataset, str(model)): each for model, each in (first / sums).dropna().groupby("target_model")}
    for on in evidence.models:
        yield replace(_mostly_background(on, shares.get((on.dataset, on.model))), dataset=on.dataset, model=on.model)


def _mostly_background(on: Attacked, shares: pd.Series | None) -> Finding:
    if shares is None:
        return unchecked("needs the metric dsc and rows of classes")
    mostly = int((shares > 0.5).sum())
    text = f"In {mostly} of {amount(len(shares), 'attacked volume')} more than half of the DSC is the background's"
    if mostly:
        classes = int(on.rows["num_classes"].max())
        text += f"; a total failure would still score about {100 / classes:.0f}: read dsc_foreground there"
    return _of_rows("noted" if mostly else "holds", text, on.rows)


def saved(on: Attacked) -> Finding:
    """Checks that a saved volume scores as it did before it was saved."""
    volumes = chain.from_iterable(each.volumes for each in on.evidence.saved)
    rescored = [volume for volume in volumes if (volume.dataset, volume.model) == (on.dataset, on.model)]
    if not rescored:
        return unchecked("needs saved volumes (save_adversarial: nifti); audit --run scores a few of them once more")
    stored = max(100 * abs(each.dsc_stored - each.dsc) for each in rescored)
    rounded = max(100 * abs(each.dsc_8bit - each.dsc) for each in rescored)
    number = len(rescored)
    ends = f"{stored:.2f} points from the row's as stored, {rounded:.2f} rounded to 8 bits (as the papers' code saves)"
    return Finding(
        verdict="violated" if stored > SAVED_POINTS else "noted" if rounded > SAVED_POINTS else "holds",
        sentence=f"{amount(number, 'saved volume')} predicted anew: the DSC is at most {ends}.",
        difference=stored,
        comparisons=number,
        cases=len({each.case_id for each in rescored}),
    )


def bounds(on: Attacked) -> Finding:
    """Checks that no change exceeds its budget, for budgets that are a norm of the change."""
    norms = [each for each in on.attacks if each.threat_model in ("linf", "l2") and each.budget is not None]
    excesses = {each.label: _excess(on, each) for each in norms}
    if not (excesses := {label: excess for label, excess in excesses.items() if len(excess)}):
        return unchecked("needs an attack on this model whose budget is an L-infinity or L2 norm")
    count = sum(map(len, excesses.values()))
    beyond = sum(int((excess > SLACK).sum()) for excess in excesses.values())
    text = f"The measured norm of {amount(count, 'volume')} of {amount(len(excesses), 'attack')} is within budget."
    if beyond:
        worst = max(excesses, key=lambda label: float(excesses[label].max()))
        rest = f"the farthest by {float(excesses[worst].max()):.3g} on the [0, 1] scale ({worst})."
        text = f"{amount(beyond, 'volume')} of {count} lie outside their budget, {rest}"
    return Finding(verdict="violated" if beyond else "holds", sentence=text, comparisons=count)


def _excess(on: Attacked, setting: Setting) -> pd.Series:
    """Amount by which each volume's norm exceeds its budget. An L2 budget is a window's: that of a volume is at most
    its square root of the number of windows. If it is a root mean square, the PSNR has that of the volume; of windows
    that overlap it may be larger than each one's."""
    rows = on.rows[on.rows["label"] == setting.label]
    budget = setting.budget or 0.0
    if setting.threat_model == "linf":
        return (rows["linf"] - budget).dropna()
    if setting.budget_name in RMS_BUDGETS:
        if setting.params.get("scope", "window") == "window":
            rows = rows[rows["num_windows"] == 1]
        return (10 ** (-rows["psnr"] / 20) - budget).dropna()
    return (rows["l2"] - budget * rows["num_windows"] ** 0.5 * (1 + SLACK)).dropna()


def certified(on: Attacked) -> Finding:
    """Checks that no attack leaves less than is certified, for every score of the draws of a randomised network. The
    median under attack is estimated from draws, so that its upper confidence limit counts (for scores of which less is
    better, its lower limit). Either the certificate or the attack has a defect where they cross. A certificate between
    the estimated median and the limit is in doubt: more draws of the attacked volume decide. Levels are those of a
    report on all records, so that its bounds and this check spend one alpha."""
    records = on.evidence.records
    balls = plain(records[(records["attack"] == "ball") & (records["left_out"] == "")])
    rows = certificates.brackets(balls)
    each = certificates.ALPHA / max(1, len(rows))
    if len(rows):
        is_here = (rows["dataset"] == on.dataset) & (rows["target_model"] == on.model)
        rows = rows[is_here & rows["certified"].notna() & np.isfinite(rows["attacked_high"])]
    if rows.empty:
        rest = "and enough draws under it"
        return unchecked(f"needs the attack ball on a network with the defence smoothing of the same kind, {rest}")
    sign = np.where(rows["score"].isin(certificates.LOWER), -1.0, 1.0)
    beyond = (rows["certified"] - rows["attacked_high"]) * sign
    crossed = int((beyond > 0).sum())
    open_ = int(((rows["certified"] - rows["attacked"]) * sign > 0).sum())
    text = f"The attack leaves no less than is certified in {amount(len(rows), 'comparison')} of score, radius and case"
    num_bounds = amount(len(rows), "bound")
    if crossed:
        worst = rows.iloc[int(beyond.to_numpy().argmax())]
        place = f"{worst['score']} of {worst['case_id']} at radius {worst['radius']:g}"
        ends = f"certified {worst['certified']:.4f}, attacked at most {worst['attacked_high']:.4f}"
        text = f"{crossed} of {num_bounds} are above what the attack leaves, the farthest {place}: {ends}"
    elif open_:
        rest = f"but within their chance: {DECIDING:,} draws decide, by samples: {DECIDING} of the defence"
        text = f"{open_} of {num_bounds} are above the median that the attack's draws show, {rest}"
    text += f". {_power(rows, each)}"
    return _of_rows("violated" if crossed else "in doubt" if open_ else "holds", text, rows)


def _power(rows: pd.DataFrame, alpha: float) -> str:
    """States how far above an attacked median a bound has to lie before the draws show it."""
    draws = int(rows["attacked_draws"].min())
    quantile = 1 - (certificates.rank(draws, 0.5, alpha) - 1) / draws
    shown = rows[rows["score"] == certificates.SHOWN]
    gap = 100 * float((shown["attacked_high"] - shown["attacked"]).max()) if len(shown) else math.nan
    farthest = "" if math.isnan(gap) else f", up to {gap:.1f} points of foreground DSC above the median"
    return f"Of {draws} draws under attack only a bound above their {100 * quantile:.0f} % quantile is caught{farthest}"


def ranking(evidence: Evidence) -> Iterator[Finding]:
    """Notes datasets with rows of several threat models, which no table ranks together."""
    for dataset in evidence.datasets:
        labels = evidence.rows.loc[evidence.rows["dataset"] == dataset, "label"].unique()
        threats = sorted({evidence.settings[label].threat_model for label in labels})
        text = f"All rows are of one threat model, {threats[0]}."
        if len(threats) > 1:
            text = (
                f"The rows are of {len(threats)} threat models ({', '.join(threats)}), which bound different things: "
                "leaderboard, worst case and transfer rank within one only, and no table marks a best across them."
            )
        yield Finding(dataset=dataset, verdict="noted" if len(threats) > 1 else "holds", sentence=text)


def distances(evidence: Evidence) -> Iterator[Finding]:
    """Notes how far each attack goes, whatever its budget is called."""
    rows = evidence.rows.drop_duplicates(["dataset", "source_model", "label", "case_id", "seed"])
    for (dataset, label), group in rows.groupby(["dataset", "label"]):
        setting = evidence.settings[str(label)]
        texts = ", ".join(text for name in _SHOWN if (text := _range(group[name], name)))
        bound = "" if setting.budget is None else f" bounded by {setting.budget_name}"
        text = f"{setting.threat_model}{bound}: {texts or 'no distance was measured'}"
        yield replace(_of_rows("noted", text, group), dataset=str(dataset), subject=str(label))


def _range(values: pd.Series, name: str) -> str:
    ends = [float(values.min()), float(values.max())]
    if math.isnan(ends[0]):
        return ""
    if name == "lpips_body":
        ends = [1 - end for end in reversed(ends)]
    title, factor, unit = _SHOWN[name]
    texts = dict.fromkeys(f"{factor * end:.1f}" for end in ends)
    return f"{title} {' to '.join(texts)}{unit}"


def _of_rows(verdict: Verdict, text: str, rows: pd.DataFrame) -> Finding:
    cases = rows["case_id"].nunique()
    patients = rows["patient_id"].nunique()
    return Finding(verdict=verdict, sentence=f"{text}.", comparisons=len(rows), cases=cases, patients=patients)


def _classes(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame]]:
    if evidence.classes is None or evidence.classes.empty:
        return
    records = evidence.records
    records = records[is_counted(records)]
    columns = ["dataset", "source_model", "target_model", "label", "case_id", "seed"]
    joined = plain(joined_classes(records, evidence.classes, columns))
    yield from by_dataset(joined)


def _unread(evidence: Evidence) -> Iterator[Finding]:
    text = "There are too many rows of classes to read for a report: freqbench audit OUT reads them."
    yield from (Finding(dataset=dataset, verdict="not checked", sentence=text) for dataset in evidence.datasets)
