r"""Does a claim of robustness survive the strongest attacks with the same bounds that are known here?

A store claims, of a model and of the bounds of a threat model, that no attack leaves less than the strongest of its own
rows does: the untargeted, optimised attack on the model itself under which the mean foreground DSC is lowest. Every
attack with the same bounds that the audit added (any loss, optimiser, restarts, scope or steps) is held against it on
the cases that both have. With d = DSC x100 under the store's strongest less that under the other:

- `violated`: d > POINTS beyond doubt, the interval lies above POINTS; `in doubt`: d > POINTS, but it does not;
- `holds`: d is at most POINTS for every one of them, `freqbench.attacks.core.strongest` names no further one, and
  where the store's strongest leaves nothing of the foreground;
- `not checked`: nothing was violated, but the strongest forms were not run, or none is known for the threat model.

Intervals are Student's t over patients, together of 95 % over the comparisons of a model (Bonferroni). A violation says
that the store's figures are too kind to the model, not that its gradients are masked. Besides, attacks of the store are
named that another one beats by more than POINTS at equal or fewer passes.
"""

import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields

import pandas as pd

from freqbench.analysis.labels import value_text
from freqbench.analysis.statistics import t_intervals
from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.strongest import STRONGEST, is_claimed, limits_of, num_steps, strongest_forms
from freqbench.audit.checks.contrasts import FAILURE, POINTS
from freqbench.audit.checks.evidence import Evidence, Setting
from freqbench.audit.checks.findings import (
    HOLDS,
    IN_DOUBT,
    NOT_CHECKED,
    VERDICTS,
    VIOLATED,
    Finding,
    counted,
    interval_text,
)
from freqbench.audit.checks.per_model import spared, unchecked
from freqbench.core.errors import UserError

EQUAL_PASSES = 1.05
"""What still counts as equal: an attack that keeps its best volume looks once more than one that does not."""
NAMED = 3
UNBOUNDED = ("linf-minimal", "none")
"""Threat models whose attacks go as far as they must: their DSC is no claim at a budget."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a store says of a model within some bounds.

    Attributes:
        dataset: where.
        model: of which.
        own: the attacks with these bounds that the store has.
        added: those that the audit added.
        made: of both the attacks themselves by label, as far as they are freqbench's.
        scores: foreground DSC x100 under each, a row a case, a column a label.
    """

    dataset: str
    model: str
    own: tuple[Setting, ...]
    added: tuple[Setting, ...]
    made: dict[str, Attack]
    scores: pd.DataFrame

    @property
    def subject(self) -> str:
        """Threat model and bounds."""
        first = self.own[0]
        attack = self.made.get(first.label)
        name = first.threat_model if attack is None else attack.threat_model
        bounds: dict[str, object] = {first.budget_name: first.budget} if first.budget_name else {}
        if attack is not None and name in STRONGEST:
            bounds = {bound: read(attack) for bound, read in STRONGEST[name].bounds.items()}
        return " ".join([name, *(f"{bound}={value_text(bound, value)}" for bound, value in bounds.items())])

    @property
    def forms(self) -> tuple[Attack, ...]:
        """The strongest attacks with these bounds."""
        made = [self.made[each.label] for each in self.own if each.label in self.made]
        return strongest_forms(max(made, key=num_steps)) if made else ()

    @property
    def lacking(self) -> list[str]:
        """The strongest forms that were not run."""
        run = [self.made[each.label] for each in (*self.own, *self.added) if each.label in self.made]
        return [
            f"{form.name} ({_loss(form)})" for form in self.forms if not any(_is_as_strong(each, form) for each in run)
        ]


@dataclass(frozen=True, kw_only=True)
class Beaten:
    """The store's strongest attack beside another one.

    Attributes:
        strongest: of the store, by label, on the cases of the other, and what it `leaves`.
        other: by label.
        difference: d, with `low` and `high`.
        cases: that both have, and `patients`.
    """

    strongest: str
    leaves: float
    other: str
    difference: float
    low: float
    high: float
    cases: int
    patients: int

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        if self.difference <= POINTS or self.leaves <= FAILURE:
            return HOLDS
        return VIOLATED if self.low > POINTS else IN_DOUBT

    @property
    def text(self) -> str:
        """What both leave."""
        return f"{self.strongest} leaves {self.leaves:.1f}, {self.other} leaves {self.leaves - self.difference:.1f}"


def strongest(evidence: Evidence) -> list[Finding]:
    """No attack with the same bounds leaves less than the store's strongest: a finding for each bounds."""
    findings = []
    for dataset, model in evidence.models:
        reason = spared(evidence, dataset, model)
        claims = [] if reason else list(_claims(evidence, dataset, model))
        if not claims:
            reason = reason or "needs an untargeted attack with a budget that was optimised on this model"
            findings.append(unchecked("strongest", dataset, model, reason))
        comparisons = sum(len(claim.added) for claim in claims)
        findings += [_finding(claim, _beaten(evidence, claim, comparisons), comparisons) for claim in claims]
    return findings


def _claims(evidence: Evidence, dataset: str, model: str) -> Iterator[Claim]:
    scores = evidence.white_box(dataset, model, "fg")
    found = [each for each in evidence.attacks_on(dataset, model) if each.label in scores]
    made = {each.label: attack for each in found if (attack := _made(each)) is not None}
    groups: dict[Hashable, list[Setting]] = {}
    for each in found:
        if each.threat_model not in UNBOUNDED and _carries_claim(each, made):
            groups.setdefault(_reach(each, made), []).append(each)
    own = {each.label for each in evidence.claimed_on(dataset, model)}
    for group in groups.values():
        claimed = tuple(each for each in group if each.label in own)
        added = tuple(each for each in group if each.label not in own)
        if claimed:
            yield Claim(dataset=dataset, model=model, own=claimed, added=added, made=made, scores=scores)


def _made(setting: Setting) -> Attack | None:
    """The attack of a setting; None for one of another package, or with what is no parameter any more."""
    if setting.attack not in ATTACKS:
        return None
    known = {each.name for each in fields(ATTACKS[setting.attack])}
    given = {**setting.params, "variant": setting.variant}
    if setting.budget_name:
        given[setting.budget_name] = setting.budget
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the row was computed
            return make(setting.attack, **{name: value for name, value in given.items() if name in known})
    except UserError:
        return None


def _carries_claim(setting: Setting, made: dict[str, Attack]) -> bool:
    if not setting.is_plain:
        return False
    attack = made.get(setting.label)
    return setting.is_gradient and setting.control == "none" if attack is None else is_claimed(attack)


def _reach(setting: Setting, made: dict[str, Attack]) -> Hashable:
    """Of an attack of another package only what its budget bounds is known."""
    attack = made.get(setting.label)
    return (setting.threat_model, False, f"{setting.budget or 0:.9g}") if attack is None else limits_of(attack)


def _is_as_strong(attack: Attack, form: Attack) -> bool:
    """Whether a strongest form was run, with as many steps and restarts at least."""
    is_same = attack.name == form.name and _loss(attack) == _loss(form)
    return is_same and all(getattr(attack, name) >= getattr(form, name) for name in ("steps", "restarts"))


def _loss(attack: Attack) -> str:
    return str(getattr(attack, "loss", ""))


def _beaten(evidence: Evidence, claim: Claim, comparisons: int) -> list[Beaten]:
    """The store's strongest beside each attack that was added, the largest difference first."""
    parts, names = [], []
    for number, other in enumerate(claim.added):
        shared = {each.label: claim.scores[[each.label, other.label]].dropna() for each in claim.own}
        best = min(shared, key=lambda label: (-len(shared[label]), shared[label][label].mean()))
        both = shared[best]
        patients = evidence.patients[claim.dataset].reindex(both.index).to_numpy()
        difference = (both[best] - both[other.label]).to_numpy()
        parts.append(pd.DataFrame({"number": number, "value": difference, "patient_id": patients}))
        names.append((best, float(both[best].mean()), other.label))
    parts = [part for part in parts if len(part)]
    if not parts:
        return []
    frame = pd.concat(parts, ignore_index=True)
    rows = t_intervals(frame, ["number"], "value", comparisons=comparisons).to_dict("records")
    found = []
    for row in rows:
        best, leaves, label = names[int(row["number"])]
        found.append(
            Beaten(
                strongest=best,
                leaves=leaves,
                other=label,
                difference=float(row["mean"]),
                low=float(row["low"]),
                high=float(row["high"]),
                cases=int(row["n"]),
                patients=int(row["clusters"]),
            )
        )
    return sorted(found, key=lambda each: (VERDICTS.index(each.verdict), -each.difference))


def _finding(claim: Claim, beaten: Sequence[Beaten], comparisons: int) -> Finding:
    worst = beaten[0] if beaten else None
    verdict = worst.verdict if worst else HOLDS
    is_total = float(claim.scores[[each.label for each in claim.own]].mean().min()) <= FAILURE
    if verdict == HOLDS and not is_total and (claim.lacking or not claim.forms):
        verdict = NOT_CHECKED
    texts = [_told(claim, worst, comparisons)]
    if claim.lacking and not is_total:
        texts.append(f"Not run: {', '.join(claim.lacking)}: audit --run does.")
    elif not claim.forms and not is_total:
        texts.append("No stronger form is known here to hold against it.")
    texts += [weaker] if (weaker := _weaker(claim)) else []
    return Finding(
        check="strongest",
        dataset=claim.dataset,
        model=claim.model,
        subject=claim.subject,
        verdict=verdict,
        sentence=" ".join(texts),
        difference=worst.difference if worst else float("nan"),
        low=worst.low if worst else float("nan"),
        high=worst.high if worst else float("nan"),
        comparisons=len(beaten),
        cases=worst.cases if worst else 0,
        patients=worst.patients if worst else 0,
    )


def _told(claim: Claim, worst: Beaten | None, comparisons: int) -> str:
    if worst is None:
        means = claim.scores[[each.label for each in claim.own]].mean()
        return f"{claim.subject}: {means.idxmin()} leaves {means.min():.1f} of the foreground DSC, the least here."
    together = f", together over {counted(comparisons, 'comparison')}" if comparisons > 1 else ""
    interval = f"{interval_text(worst.low, worst.high)}{together}"
    count = f"{counted(worst.cases, 'case')} of {counted(worst.patients, 'patient')}"
    text = (
        f"{claim.subject}: {worst.text} of the foreground DSC (difference {worst.difference:.1f}, {interval}, {count})."
    )
    if worst.verdict == HOLDS:
        return f"{text} None of {counted(len(claim.added), 'further attack')} takes more than {POINTS:g} points more."
    are = "are" if worst.verdict == VIOLATED else "may be"
    return f"{text} The store's figures {are} too kind to the model: report the stronger attack."


def _weaker(claim: Claim) -> str:
    """The attacks of the store that others beat at equal or fewer passes."""
    found = []
    for own in claim.own:
        rivals = [
            other for other in (*claim.own, *claim.added) if other.label != own.label and _is_cheap(claim, other, own)
        ]
        pairs = {other.label: claim.scores[[own.label, other.label]].dropna().mean() for other in rivals}
        gains = {label: float(means[own.label] - means[label]) for label, means in pairs.items()}
        best = max((label for label, gain in gains.items() if gain > POINTS), key=gains.__getitem__, default=None)
        if best is not None:
            left, less = pairs[best][own.label], pairs[best][best]
            found.append((gains[best], f"{own.label} leaves {left:.1f}, {best} {less:.1f}"))
    texts = [text for _, text in sorted(found, reverse=True)]
    if not texts:
        return ""
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return f"At equal or fewer passes: {'; '.join(texts[:NAMED])}{more}."


def _is_cheap(claim: Claim, other: Setting, own: Setting) -> bool:
    """Whether an attack takes no more passes than another, as far as both are known."""
    passes = [sum(claim.made[each.label].passes) for each in (other, own) if each.label in claim.made]
    return len(passes) == 2 and passes[0] <= EQUAL_PASSES * passes[1]
