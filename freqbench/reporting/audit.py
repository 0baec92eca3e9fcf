"""Shows findings of the audit as a screen of a few lines, as sections of a report, and as a part of the page's data."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from freqbench.audit.checks import CHECKS, Finding, ModelVerdict, Verdict, titled, verdicts
from freqbench.core.terminal import amount, printable
from freqbench.reporting.render import Section

HOW = (
    "Each check is a statement that should hold. violated: it does not, by more than 0.5 points of DSC with a 95 % "
    "interval over patients (Student's t) that excludes 0 (facts: by the limit in the sentence). in doubt: by more "
    "than 0.5 points, but the interval holds 0 or there is one patient; or, where an attack must be clearly better "
    "than noise or a null row, it is not. holds: no violation above 0.5 points was seen on these cases, which is no "
    "proof. noted: a fact to know. A claim (strongest) is violated where the interval lies above 0.5 points, corrected "
    "over all comparisons of its model. The other intervals are not corrected: of forty comparisons that make no "
    "difference one lies outside by chance. Intervals of few patients are wide."
)
DISTANCES = "distances"
GRAVITY: tuple[Verdict, ...] = ("violated", "in doubt", "not checked", "noted")  # of sentences on the first screen
CLAIMS = [key for key, each in CHECKS.items() if each.is_claim]
MASKING = [key for key, each in CHECKS.items() if each.is_masking]
MODEL_GRAVITY = ("flagged", "in doubt", "not checked", "no sign")  # of its verdicts
# of the first screen
LINES = 20
MOST_MODELS = 6
MOST_SENTENCES = 3
NAMED = 3
MODELS = (
    "A model is flagged where a check of its gradients is violated (Carlini et al., arXiv:1902.06705; Athalye et al., "
    "arXiv:1802.00420): its robustness is then not established, whatever the other tables show. A flag can also mean "
    "an attack in a bad setting, so the sentence names the first suspect. A model is flagged too where an attack with "
    "the same bounds leaves less than the store's strongest: its figures are then too kind, whatever its gradients "
    "are. Checks of gradients compare only attacks that raise the same loss. Beside the verdict stands how many checks "
    "hold, of all: no sign needs at least a black-box search, noise of equal size, more steps and a random "
    "start; with fewer a model is not checked."
)
NOTHING = "No row counts: all failed, or were left out of the tables for the reasons in the report."
RUN = "For checks not made: freqbench audit OUT --plan lists the cells that they need, --run computes them."


def first_screen(findings: tuple[Finding, ...], remedies: Sequence[str], width: int) -> str:
    """Returns at most LINES lines of `width` characters: a verdict per model, what matters most of `findings`, and
    `remedies`, whole. Graver verdicts come first, then claims, then gradients. A sentence speaks of all models with a
    check and verdict."""
    models = sorted(verdicts(findings), key=lambda each: MODEL_GRAVITY.index(each.verdict))
    shown = models[:MOST_MODELS]
    names = [f"{each.model} on {each.dataset}" for each in shown]
    widest = max(map(len, names), default=0)
    head = [f"{name:{widest}}  {each.brief}" for name, each in zip(names, shown, strict=True)] or [NOTHING]
    head += [f"and {len(models) - MOST_MODELS} more"] if len(models) > MOST_MODELS else []
    sentences = _sentences(findings)[:MOST_SENTENCES]
    left = LINES - 3 - len(head) - sum(-(-len(line) // width) for line in remedies)
    body: list[str] = []
    for number, sentence in enumerate(sentences):
        lines = max(1, (left - len(body)) // (len(sentences) - number))
        body += textwrap.wrap(sentence, width, subsequent_indent="  ", max_lines=lines, placeholder=" ...")
    head = [one if len(one) <= width else f"{one[: width - 4]} ..." for one in ("Can the numbers be believed?", *head)]
    return printable("\n\n".join("\n".join(part) for part in (head, body, remedies) if part)) + "\n"


def _sentences(findings: tuple[Finding, ...]) -> list[str]:
    groups: dict[tuple[str, Verdict], list[Finding]] = {}
    for each in findings:
        is_made = each.verdict != "not checked"
        if each.check in MASKING and not is_made:
            groups.setdefault(("", each.verdict), []).append(each)
        elif each.verdict in GRAVITY and each.check != DISTANCES and (is_made or each.check in CLAIMS):
            groups.setdefault((each.check, each.verdict), []).append(each)

    def gravity(group: tuple[str, Verdict]) -> tuple[int, bool, bool]:
        name, verdict = group
        return GRAVITY.index(verdict), name not in CLAIMS, name not in MASKING

    return [_sentence(name, groups[name, verdict]) for name, verdict in sorted(groups, key=gravity)]


def _sentence(name: str, group: Sequence[Finding]) -> str:
    worst = max(group, key=lambda each: -math.inf if math.isnan(each.difference) else each.difference)
    names = list(dict.fromkeys(each.model or each.dataset for each in group))
    whom = ", ".join(names) if len(names) <= NAMED else amount(len(names), "network")
    if not name:
        return f"{worst.verdict} for {whom}: {'; '.join(dict.fromkeys(CHECKS[each.check].should for each in group))}."
    about = f"; on {worst.model}: " if len(names) > 1 and worst.model else ": "
    return f"{titled(name)}. {worst.verdict.capitalize()} for {whom}{about}{worst.sentence}"


def sections(findings: tuple[Finding, ...]) -> list[Section]:
    """Returns the whole audit: one verdict per model, the findings by model and dataset, and how far attacks go."""
    names = [field.name for field in fields(Finding)]
    data = pd.DataFrame(map(vars, findings), columns=names)
    data.insert(1, "should", [CHECKS[each.check].should for each in findings])
    others = [each for each in findings if each.check != DISTANCES]
    places: dict[tuple[str, str], list[Finding]] = {}
    for each in sorted(others, key=lambda each: (each.dataset, each.model)):
        places.setdefault((each.dataset, each.model), []).append(each)
    columns = ("should", "verdict", "sentence")
    far = _table([each for each in findings if each.check == DISTANCES], "dataset", "subject", "cases", "sentence")
    lacks = any(each.verdict == "not checked" for each in findings)
    parts = [_belief_section(findings, MODELS, data)]
    for (dataset, model), rows in places.items():
        parts.append(Section(f"Audit: {model or 'all models'} on {dataset}", _table(rows, *columns), data=data))
    parts.append(Section("Audit: how far attacks go", far, data=data))
    return [*parts, Section("Audit: how to read this", text=f"{HOW} {RUN}" if lacks else HOW)]


def short_sections(findings: tuple[Finding, ...]) -> list[Section]:
    """Returns a report's excerpt: one verdict per model, and the findings that are violated or in doubt."""
    wrong = [each for each in findings if each.verdict in ("violated", "in doubt")]
    parts = [_belief_section(findings, f"{MODELS} {RUN}")]
    table = _table(wrong, "should", "dataset", "model", "verdict", "sentence")
    return [*parts, Section("Audit: violated or in doubt", table, HOW)] if wrong else parts


def _belief_section(findings: tuple[Finding, ...], text: str, data: pd.DataFrame | None = None) -> Section:
    title = "Audit: can the numbers be believed?"
    models = verdicts(findings)
    table = _table(models, "dataset", "model", "label", "sentence")
    return Section(title, table, text, data) if models else Section(title, text=NOTHING)


_TITLES = {"label": "verdict", "should": "what should hold", "subject": "attack", "sentence": "what was found"}


def _table(rows: Sequence[Finding] | Sequence[ModelVerdict], *names: str) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {}
    for name in names:
        of_check = name == "should"
        values = [
            titled(each.check) if of_check and isinstance(each, Finding) else getattr(each, name) for each in rows
        ]
        columns[_TITLES.get(name, name)] = values
    return pd.DataFrame(columns)
