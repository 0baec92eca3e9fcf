"""Facts of labels and metrics that decide what their numbers can mean."""

from collections.abc import Iterator

import pandas as pd

from freqbench.audit.checks.evidence import Evidence
from freqbench.audit.checks.findings import HOLDS, NOT_CHECKED, NOTED, VIOLATED, Finding, counted
from freqbench.audit.checks.per_model import unchecked

CLEAN_FLOOR = 50.0
SAVED_POINTS = 0.5


def organs(evidence: Evidence) -> list[Finding]:
    """Every label map has every class."""
    if evidence.classes is None:
        return [_unread("organs", dataset) for dataset in _datasets(evidence)]
    findings = []
    for dataset, own in _classes(evidence):
        labels = own.drop_duplicates(["case_id", "class_index"])
        absent = labels[labels["label_voxels"] == 0]
        cases, names = labels["case_id"].nunique(), absent["class_name"].value_counts()
        if len(absent) == 0:
            text = f"Every class is in the label of each of {counted(cases, 'case')}."
        else:
            listed = ", ".join(f"{name} in {count}" for name, count in sorted(names.items()))
            text = (
                f"Of {counted(cases, 'case')} the label lacks: {listed}. Such a class drops out of the mean of its "
                "case, or counts 0 where it is predicted."
            )
        verdict = NOTED if len(absent) else HOLDS
        findings.append(Finding(check="organs", dataset=dataset, verdict=verdict, sentence=text, cases=cases))
    return findings


def hd95(evidence: Evidence) -> list[Finding]:
    """HD95 is defined for every class of every attacked volume."""
    findings = []
    for dataset, model, own in _white_box(evidence):
        counted_rows = own[own["hd95_undefined_classes"].notna()]
        if counted_rows.empty:
            findings.append(unchecked("hd95", dataset, model, "needs the metric hd95"))
            continue
        share = counted_rows["hd95_undefined_classes"].sum() / counted_rows["num_classes"].sum()
        text = f"{100 * share:.1f} % of the classes of {counted(len(counted_rows), 'attacked volume')} have no HD95"
        if share > 0:
            text += " and drop out of its mean, so a stronger attack can look better there: read hd95_penalised beside"
        verdict = NOTED if share > 0 else HOLDS
        findings.append(_rows_fact("hd95", dataset, model, verdict, f"{text}.", counted_rows))
    return findings


def background(evidence: Evidence) -> list[Finding]:
    """What is left of DSC is not mostly the background's."""
    if evidence.classes is None:
        return [_unread("background", dataset) for dataset in _datasets(evidence)]
    shares: dict[tuple[str, str], pd.Series] = {}
    for dataset, own in _classes(evidence):
        own = own[(own["source_model"] == own["target_model"]) & own["dsc"].notna()]
        sums = own.groupby(["target_model", "label", "case_id", "seed"], dropna=False)["dsc"].sum()
        first = own[own["class_index"] == 0].groupby(["target_model", "label", "case_id", "seed"], dropna=False)["dsc"]
        share = (first.sum() / sums).dropna()
        shares |= {(dataset, str(model)): each for model, each in share.groupby("target_model")}
    findings = []
    for dataset, model, own in _white_box(evidence):
        share = shares.get((dataset, model), pd.Series(dtype=float))
        if share.empty:
            findings.append(unchecked("background", dataset, model, "needs the metric dsc and rows of classes"))
            continue
        mostly = int((share > 0.5).sum())
        text = f"In {mostly} of {counted(len(share), 'attacked volume')} more than half of the DSC is the background's"
        if mostly:
            classes = int(own["num_classes"].max())
            text += f"; a total failure would still score about {100 / classes:.0f}: read dsc_foreground there"
        verdict = NOTED if mostly else HOLDS
        findings.append(_rows_fact("background", dataset, model, verdict, f"{text}.", own))
    return findings


def clean(evidence: Evidence) -> list[Finding]:
    """The model segments each clean volume, above a floor."""
    findings = []
    for dataset, model in evidence.models:
        scores = evidence.clean(dataset, model)
        if scores.empty:
            findings.append(unchecked("clean", dataset, model, "needs the metric dsc"))
            continue
        low = scores[scores < CLEAN_FLOOR].sort_values()
        text = f"{len(low)} of {counted(len(scores), 'case')} have a clean foreground DSC below {CLEAN_FLOOR:g}"
        if len(low):
            listed = ", ".join(f"{case} {value:.1f}" for case, value in low.head(3).items())
            text += f" ({listed}): what an attack takes there says little of robustness"
        verdict = VIOLATED if len(low) else HOLDS
        findings.append(
            Finding(
                check="clean", dataset=dataset, model=model, verdict=verdict, sentence=f"{text}.", cases=len(scores)
            )
        )
    return findings


def saved(evidence: Evidence) -> list[Finding]:
    """A saved volume scores as it did before it was saved."""
    volumes = [volume for each in evidence.saved for volume in each.volumes]
    findings = []
    for dataset, model in evidence.models:
        own = [volume for volume in volumes if (volume.dataset, volume.model) == (dataset, model)]
        if not own:
            text = "needs saved volumes (save_adversarial: nifti); audit --run scores a few of them once more"
            findings.append(unchecked("saved", dataset, model, text))
            continue
        stored = max(100 * abs(each.dsc_stored - each.dsc) for each in own)
        rounded = max(100 * abs(each.dsc_8bit - each.dsc) for each in own)
        verdict = VIOLATED if stored > SAVED_POINTS else NOTED if rounded > SAVED_POINTS else HOLDS
        text = (
            f"{counted(len(own), 'saved volume')} predicted anew: the DSC is at most {stored:.2f} points from the "
            f"row's as stored, {rounded:.2f} rounded to 8 bits (as the papers' code saves)."
        )
        cases = len({each.case_id for each in own})
        findings.append(
            Finding(
                check="saved",
                dataset=dataset,
                model=model,
                verdict=verdict,
                sentence=text,
                difference=stored,
                comparisons=len(own),
                cases=cases,
            )
        )
    return findings


def _rows_fact(check: str, dataset: str, model: str, verdict: str, sentence: str, rows: pd.DataFrame) -> Finding:
    counts = {name: rows[f"{name}_id"].nunique() for name in ("case", "patient")}
    return Finding(
        check=check,
        dataset=dataset,
        model=model,
        verdict=verdict,
        sentence=sentence,
        comparisons=len(rows),
        cases=counts["case"],
        patients=counts["patient"],
    )


def _white_box(evidence: Evidence) -> Iterator[tuple[str, str, pd.DataFrame]]:
    rows = evidence.rows
    own = rows[rows["source_model"] == rows["target_model"]]
    for dataset, model in evidence.models:
        yield dataset, model, own[(own["dataset"] == dataset) & (own["target_model"] == model)]


def _classes(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame]]:
    """Of each dataset the class rows of the records that count."""
    keys = ["cell_id", "case_key", "target_model_id"]
    names = [*keys, "dataset", "source_model", "target_model", "label", "case_id", "seed", "left_out", "status"]
    records = evidence.records[names].astype({name: object for name in names if name != "seed"})
    records = records[(records["left_out"] == "") & (records["status"] == "ok")]
    classes = pd.DataFrame() if evidence.classes is None else evidence.classes
    if classes.empty:
        return
    own = classes[[*keys, "class_index", "class_name", "label_voxels", "dsc"]]
    joined = own.astype(dict.fromkeys([*keys, "class_name"], object)).merge(records, on=keys)
    yield from ((str(name), rows) for name, rows in joined.groupby("dataset"))


def _datasets(evidence: Evidence) -> list[str]:
    return sorted({dataset for dataset, _ in evidence.models})


def _unread(check: str, dataset: str) -> Finding:
    text = "There are too many rows of classes to read for a report: bench.py audit OUT reads them."
    return Finding(check=check, dataset=dataset, verdict=NOT_CHECKED, sentence=text)
