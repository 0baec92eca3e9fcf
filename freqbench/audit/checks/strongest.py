r"""Tests claims of robustness against the strongest known attacks with the same bounds.

A store claims, for a model and the bounds of a threat model, that no attack leaves less than the strongest of its own
rows: the untargeted, optimised attack on the model itself under which the mean foreground DSC is lowest. Every
attack with the same set of volumes that the audit added (any loss, optimiser, restarts or steps) is compared with it on
the cases that both have. Window by window and jointly, the set is one; of whole volumes it is another one, unless the
bounds are those of single voxels. Let d = DSC x100 under the store's strongest minus that under the other:

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
from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.strongest import is_claimed, limits_of, num_steps, strongest_forms, threat_of
from freqbench.audit.checks.contrasts import FAILURE, POINTS, MeanDifference, differences
from freqbench.audit.checks.evidence import Attacked, Setting
from freqbench.audit.checks.findings import VERDICTS, Finding, Verdict, interval_text, unchecked
from freqbench.core.errors import UserError
from freqbench.core.terminal import amount

EQUAL_PASSES = 1.05
"""Factor up to which passes count as equal: an attack that keeps its best volume looks once more than others."""
NAMED = 3
UNBOUNDED = ("linf-minimal", "l2-minimal", "none")
"""Threat models whose attacks go as far as they must: their DSC is no claim at a budget."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Claim of a store about a model within some bounds."""

    own: tuple[Setting, ...]  # the store's attacks with these bounds
    added: tuple[Setting, ...]  # the audit's attacks
    made: dict[str, Attack]  # attacks of both by label, if they are freqbench's
    scores: pd.DataFrame  # foreground DSC x100 under each: one row per case, one column per label

    @property
    def subject(self) -> str:
        """Threat model with its bounds."""
        first = self.own[0]
        attack = self.made.get(first.label)
        name = first.threat_model if attack is None else attack.threat_model
        bounds: dict[str, object] = {first.budget_name: first.budget} if first.budget_name else {}
        if attack is not None and (threat := threat_of(attack)):
            bounds = threat.bounds(attack)
        return " ".join([name, *(f"{bound}={value_text(bound, value)}" for bound, value in bounds.items())])

    @property
    def forms(self) -> tuple[Attack, ...]:
        """Strongest attacks with these bounds."""
        made = [self.made[each.label] for each in self.own if each.label in self.made]
        return strongest_forms(max(made, key=num_steps)) if made else ()

    @property
    def lacking(self) -> list[str]:
        """Strongest forms that were not run."""
        run = [self.made[each.label] for each in (*self.own, *self.added) if each.label in self.made]
        names = []
        for form in self.forms:
            if not any(_is_as_strong(each, form) for each in run):
                names.append(f"{form.name} ({getattr(form, 'loss', '')})")
        return names

    @property
    def left(self) -> pd.Series:
        """Mean foreground DSC x100 under each of the store's own attacks."""
        return self.scores[[each.label for each in self.own]].mean()


@dataclass(frozen=True, kw_only=True)
class Beaten:
    """The store's strongest attack on the cases of another one, its DSC `leaves` there, and the difference d."""

    strongest: str
    leaves: float
    other: str
    found: MeanDifference

    @property
    def verdict(self) -> Verdict:
        """Verdict by the rule of this module."""
        if self.found.difference <= POINTS or self.leaves <= FAILURE:
            return "holds"
        return "violated" if self.found.low > POINTS else "in doubt"


def strongest(on: Attacked) -> Iterator[Finding]:
    """Checks that no attack with the same bounds leaves less than the store's strongest: one finding per bounds."""
    if not (claims := list(claims_of(on))):
        yield unchecked("needs an untargeted attack with a budget that was optimised on this model")
    comparisons = sum(len(claim.added) for claim in claims)
    for claim in claims:
        yield _finding(claim, _beaten(on, claim, comparisons), comparisons)


def claims_of(on: Attacked) -> Iterator[Claim]:
    """Yields a store's claims about a model: one for the bounds of each of its own optimised attacks with a budget."""
    scores = on.scores("fg")
    settings = [each for each in on.attacks if each.label in scores]
    made = {each.label: attack for each in settings if (attack := _made(each)) is not None}
    groups: dict[Hashable, list[Setting]] = {}
    for each in settings:
        attack = made.get(each.label)
        optimised = each.is_gradient and each.control == "none" if attack is None else is_claimed(attack)
        if each.threat_model not in UNBOUNDED and each.is_plain and optimised:
            # Only what its budget bounds is known of an attack of another package.
            unknown = each.threat_model, False, False, f"{each.budget or 0:.9g}"
            groups.setdefault(unknown if attack is None else limits_of(attack), []).append(each)
    stored = set(on.rows.loc[~on.rows["cell_id"].isin(on.evidence.added), "label"])
    for group in groups.values():
        own = tuple(each for each in group if each.label in stored)
        added = tuple(each for each in group if each.label not in stored)
        if own:
            yield Claim(own=own, added=added, made=made, scores=scores)


def _made(setting: Setting) -> Attack | None:
    """Makes the attack of a setting; None for one of another package, or with a parameter that no longer exists."""
    if setting.attack not in ATTACKS:
        return None
    parameters = {each.name for each in fields(ATTACKS[setting.attack])}
    values = {**setting.params, "variant": setting.variant}
    if setting.budget_name:
        values[setting.budget_name] = setting.budget
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the row was computed
            return make(setting.attack, **{name: value for name, value in values.items() if name in parameters})
    except UserError:
        return None


def _is_as_strong(attack: Attack, form: Attack) -> bool:
    """True if `attack` is a strongest form with at least as many steps."""
    is_form = all(getattr(attack, name, None) == getattr(form, name) for name in ("name", "loss", "step_rule", "scope"))
    return is_form and num_steps(attack) >= num_steps(form)


def _beaten(on: Attacked, claim: Claim, comparisons: int) -> list[Beaten]:
    """Compares the store's strongest with each added attack, the gravest and largest difference first."""
    pairs = []
    for other in claim.added:
        shared = {each.label: claim.scores[[each.label, other.label]].dropna() for each in claim.own}
        best = min(shared, key=lambda label: (-len(shared[label]), shared[label][label].mean()))
        pairs.append((best, other.label, shared[best]))
    gaps = differences(on, [both[best] - both[other] for best, other, both in pairs], comparisons)
    beaten = [
        Beaten(strongest=best, leaves=float(both[best].mean()), other=other, found=gaps[number])
        for number, (best, other, both) in enumerate(pairs)
        if number in gaps
    ]
    return sorted(beaten, key=lambda each: (VERDICTS.index(each.verdict), -each.found.difference))


def _finding(claim: Claim, beaten: Sequence[Beaten], comparisons: int) -> Finding:
    worst = beaten[0] if beaten else None
    verdict = worst.verdict if worst else "holds"
    is_total = float(claim.left.min()) <= FAILURE
    if verdict == "holds" and not is_total and (claim.lacking or not claim.forms):
        verdict = "not checked"
    not_run = f"Not run: {', '.join(claim.lacking)}: audit --run does." if claim.lacking else ""
    unknown = "" if claim.forms else "No stronger form is known here to compare with it."
    texts = [_told(claim, worst, comparisons), "" if is_total else not_run or unknown, _weaker(claim)]
    sentence = " ".join(filter(None, texts))
    gap = vars(worst.found) if worst else {}
    return Finding(subject=claim.subject, verdict=verdict, sentence=sentence, comparisons=len(beaten), **gap)


def _told(claim: Claim, worst: Beaten | None, comparisons: int) -> str:
    if worst is None:
        least = f"{claim.left.idxmin()} leaves {claim.left.min():.1f} of the foreground DSC"
        return f"{claim.subject}: {least}, the least here."
    d = worst.found
    together = f", together over {amount(comparisons, 'comparison')}" if comparisons > 1 else ""
    found = f"(difference {d.difference:.1f}, {interval_text(d.low, d.high)}{together}, {d.count})"
    leaves = f"{worst.other} leaves {worst.leaves - d.difference:.1f} of the foreground DSC {found}"
    text = f"{claim.subject}: {worst.strongest} leaves {worst.leaves:.1f}, {leaves}."
    if worst.verdict == "holds":
        return f"{text} None of {amount(len(claim.added), 'further attack')} takes more than {POINTS:g} points more."
    are = "are" if worst.verdict == "violated" else "may be"
    return f"{text} The store's figures {are} too kind to the model: report the stronger attack."


def _weaker(claim: Claim) -> str:
    passes = {label: sum(attack.passes) for label, attack in claim.made.items()}
    lines = []
    for own in (each.label for each in claim.own if each.label in passes):
        rivals = [each.label for each in (*claim.own, *claim.added) if each.label in passes and each.label != own]
        cheap = [label for label in rivals if passes[label] <= EQUAL_PASSES * passes[own]]
        means = {label: claim.scores[[own, label]].dropna().mean() for label in cheap}
        gains = {label: float(pair[own] - pair[label]) for label, pair in means.items()}
        best = max((label for label, gain in gains.items() if gain > POINTS), key=gains.__getitem__, default=None)
        if best is not None:
            lines.append((gains[best], f"{own} leaves {means[best][own]:.1f}, {best} {means[best][best]:.1f}"))
    texts = [text for _, text in sorted(lines, reverse=True)]
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return f"At equal or fewer passes: {'; '.join(texts[:NAMED])}{more}." if texts else ""
