"""Shows findings of the audit as sections of a report and as a part of the page's data."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from freqbench.audit.checks import CHECKS, Finding, ModelVerdict, verdicts
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
NOTHING = "No row counts: all failed, or were left out of the tables for the reasons in the report."
RUN = "For checks not made: freqbench audit OUT --plan lists the cells that they need, --run computes them."


def sections(findings: tuple[Finding, ...]) -> list[Section]:
    """Returns the whole audit: one verdict per model, the findings by model and dataset, and how far attacks go."""
    data = pd.DataFrame([vars(each) for each in findings], columns=[field.name for field in fields(Finding)])
    data.insert(1, "should", [CHECKS[each.check].should for each in findings])
    others = [each for each in findings if each.check != DISTANCES]
    places: dict[tuple[str, str], list[Finding]] = {}
    for each in sorted(others, key=lambda each: (each.dataset, each.model)):
        places.setdefault((each.dataset, each.model), []).append(each)
    columns = ("should", "verdict", "sentence")
    parts = [
        Section(f"Audit: {model or 'all models'} on {dataset}", _table(rows, *columns), data=data)
        for (dataset, model), rows in places.items()
    ]
    far = _table([each for each in findings if each.check == DISTANCES], "dataset", "subject", "cases", "sentence")
    lacks = any(each.verdict == "not checked" for each in findings)
    return [
        _believed(findings, MODELS, data),
        *parts,
        Section("Audit: how far attacks go", far, data=data),
        Section("Audit: how to read this", text=f"{HOW} {RUN}" if lacks else HOW),
    ]


def short_sections(findings: tuple[Finding, ...]) -> list[Section]:
    """Returns a report's excerpt: one verdict per model, and the findings that are violated or in doubt."""
    wrong = [each for each in findings if each.verdict in ("violated", "in doubt")]
    parts = [_believed(findings, f"{MODELS} {RUN}")]
    table = _table(wrong, "should", "dataset", "model", "verdict", "sentence")
    return [*parts, Section("Audit: violated or in doubt", table, HOW)] if wrong else parts


def _believed(findings: tuple[Finding, ...], text: str, data: pd.DataFrame | None = None) -> Section:
    title, models = "Audit: can the numbers be believed?", verdicts(findings)
    table = _table(models, "dataset", "model", "verdict", "sentence")
    return Section(title, table, text, data) if models else Section(title, text=NOTHING)


def page_part(findings: tuple[Finding, ...]) -> dict[str, Any]:
    """Returns the PageAudit of findings."""
    of_model = ("dataset", "model", "verdict", "sentence")
    of_finding = ("check", "should", "dataset", "model", "subject", "verdict", "sentence")
    return {
        "models": [{name: getattr(each, name) for name in of_model} for each in verdicts(findings)],
        "findings": [{name: _value(each, name) for name in of_finding} for each in findings],
        "notes": [MODELS, HOW, RUN],
    }


_TITLES = {"should": "what should hold", "subject": "attack", "sentence": "what was found"}


def _table(rows: Sequence[Finding] | Sequence[ModelVerdict], *names: str) -> pd.DataFrame:
    return pd.DataFrame({_TITLES.get(name, name): [_value(each, name) for each in rows] for name in names})


def _value(row: Finding | ModelVerdict, name: str) -> Any:
    return CHECKS[row.check].should if isinstance(row, Finding) and name == "should" else getattr(row, name)
