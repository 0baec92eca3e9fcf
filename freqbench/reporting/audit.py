"""Findings as sections of a page and as a part of the page's data."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from freqbench.audit.checks.findings import IN_DOUBT, NOT_CHECKED, VIOLATED, Finding, frame_of
from freqbench.audit.checks.table import CHECKS, ModelVerdict, verdicts
from freqbench.reporting.render import Section

HOW = (
    "Each check is a statement that should hold. violated: it does not, by more than 0.5 points of DSC with a 95 % "
    "interval over patients (Student's t) that excludes 0 (facts: by the limit in the sentence). in doubt: by more "
    "than 0.5 points, but the interval holds 0 or there is one patient; or, where an attack must be clearly better "
    "than noise or a null row, it is not. holds: no violation above 0.5 points was seen on these cases, which is no "
    "proof. noted: a fact to know. A claim (no attack with the same bounds is stronger) is violated where the interval "
    "lies above 0.5 points, corrected over all comparisons of its model. The other intervals are not corrected: of "
    "forty comparisons that make no difference one lies outside by chance. Intervals of few patients are wide."
)
DISTANCES = "distances"
MODELS = (
    "A model is flagged where a check of its gradients is violated (Carlini et al., arXiv:1902.06705; Athalye et al., "
    "arXiv:1802.00420): its robustness is then not established, whatever the other tables show. A flag can also mean "
    "an attack in a bad setting, so the sentence names the first suspect. A model is flagged too where an attack with "
    "the same bounds leaves less than the store's strongest: its figures are then too kind, whatever its gradients "
    "are. Checks of gradients compare only attacks that raise the same loss."
)
NOTHING = "No row counts, as all failed or were left out of the tables for the reason that the report names."
RUN = "What is not checked: bench.py audit OUT --plan says which cells it takes, --run computes them."


def sections(findings: tuple[Finding, ...]) -> list[Section]:
    """The whole audit: a verdict a model, every finding of each model and dataset, how far attacks go."""
    told = [each for each in findings if each.check != DISTANCES]
    far = [each for each in findings if each.check == DISTANCES]
    data = _data(findings)
    places = sorted({(each.dataset, each.model) for each in told})
    parts = [
        Section(f"Audit: {model or 'all models'} on {dataset}", _table(own, ("dataset", "model")), data=data)
        for dataset, model in places
        if (own := [each for each in told if (each.dataset, each.model) == (dataset, model)])
    ]
    lacks = any(each.verdict == NOT_CHECKED for each in findings)
    return [
        _believed(findings, MODELS, data),
        *parts,
        Section("Audit: how far attacks go", _distances(far), data=data),
        Section("Audit: how to read this", text=f"{HOW} {RUN}" if lacks else HOW),
    ]


def short_sections(findings: tuple[Finding, ...]) -> list[Section]:
    """What a report shows of it: a verdict a model, and what is violated or in doubt."""
    wrong = [each for each in findings if each.verdict in (VIOLATED, IN_DOUBT)]
    found = [_believed(findings, f"{MODELS} {RUN}")]
    return [*found, Section("Audit: violated or in doubt", _table(wrong), HOW)] if wrong else found


def _believed(findings: tuple[Finding, ...], text: str, data: pd.DataFrame | None = None) -> Section:
    title, models = "Audit: can the numbers be believed?", verdicts(findings)
    return Section(title, _models(models), text, data) if models else Section(title, text=NOTHING)


def page_part(findings: tuple[Finding, ...]) -> dict[str, Any]:
    """`audit` of the page's data: `{models: [{dataset model verdict sentence}], findings: [{check should dataset model
    subject verdict sentence}], notes: [paragraphs]}`."""
    return {
        "models": [
            {"dataset": each.dataset, "model": each.model, "verdict": each.verdict, "sentence": each.sentence}
            for each in verdicts(findings)
        ],
        "findings": [
            {
                "check": each.check,
                "should": CHECKS[each.check].should,
                **{name: getattr(each, name) for name in ("dataset", "model", "subject", "verdict", "sentence")},
            }
            for each in findings
        ],
        "notes": [MODELS, HOW, RUN],
    }


def _models(found: Sequence[ModelVerdict]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": [each.dataset for each in found],
            "model": [each.model for each in found],
            "verdict": [each.verdict for each in found],
            "what was found": [each.sentence for each in found],
        }
    )


def _table(findings: Sequence[Finding], without: Sequence[str] = ()) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "what should hold": [CHECKS[each.check].should for each in findings],
            "dataset": [each.dataset for each in findings],
            "model": [each.model for each in findings],
            "verdict": [each.verdict for each in findings],
            "what was found": [each.sentence for each in findings],
        }
    )
    return table.drop(columns=list(without))


def _distances(findings: Sequence[Finding]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": [each.dataset for each in findings],
            "attack": [each.subject for each in findings],
            "cases": [each.cases for each in findings],
            "what was found": [each.sentence for each in findings],
        }
    )


def _data(findings: tuple[Finding, ...]) -> pd.DataFrame:
    frame = frame_of(findings)
    frame.insert(1, "should", [CHECKS[each.check].should for each in findings])
    return frame
