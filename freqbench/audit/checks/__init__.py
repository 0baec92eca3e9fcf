"""Checks that the numbers of a store can be believed, as the robustness field asks of every evaluation. Pure: evidence
in, findings out. `CHECKS` lists the checks and `audited` runs them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from freqbench.analysis.labels import reword_dsc
from freqbench.audit.checks import gradients, noise, scores, strongest
from freqbench.audit.checks.contrasts import SILENT, Find, per_model
from freqbench.audit.checks.evidence import COLUMNS, Evidence, gathered
from freqbench.audit.checks.findings import VERDICTS, Finding, Verdict, unchecked
from freqbench.core.terminal import amount

__all__ = ["CHECKS", "COLUMNS", "AuditCheck", "Evidence", "Finding", "ModelVerdict", "Verdict", "audited", "gathered"]
__all__ += ["titled", "verdicts"]


@dataclass(frozen=True, kw_only=True)
class AuditCheck:
    """One check of the audit."""

    should: str  # the statement that should hold
    run: Callable[[Evidence], Iterable[Finding]]  # on all models
    is_masking: bool = False  # a violation is a sign of masked gradients
    is_claim: bool = False  # a violation refutes a claim of robustness, whatever the gradients


def _masking(should: str, find: Find, spares: bool = True) -> AuditCheck:
    return AuditCheck(should=should, run=per_model(find, spares), is_masking=True)


CHECKS: Mapping[str, AuditCheck] = {
    "budget": _masking("a larger budget hurts more", gradients.budget),
    "steps": _masking("more steps hurt more", gradients.steps),
    "unbounded": _masking("without a bound nothing is left", gradients.unbounded),
    "iterative": _masking("many steps beat one step", gradients.iterative),
    "transfer": _masking("white-box beats transfer", gradients.transfer),
    "noise_linf": _masking("gradients beat noise of equal L-inf", noise.noise_linf),
    "noise_l2": _masking("gradients beat noise of equal L2", noise.noise_l2),
    "square": _masking("black-box does not beat gradients", gradients.square),
    "restarts": _masking("restarts do not change the order", gradients.restarts),
    "zero_gradients": _masking("gradients are not zero", gradients.zero_gradients, spares=False),
    "same_gradients": _masking("gradients are the same twice", gradients.same_gradients, spares=False),
    "strongest": AuditCheck(
        should="no attack with the same bounds is stronger", run=per_model(strongest.strongest, True), is_claim=True
    ),
    "converged": AuditCheck(should="the loss has settled", run=per_model(gradients.converged)),
    "credit": AuditCheck(should="the optimisation does the damage", run=per_model(noise.credit, spares=True)),
    "clean": AuditCheck(should="clean volumes are segmented", run=per_model(scores.clean)),
    "organs": AuditCheck(should="every label has every class", run=scores.organs),
    "hd95": AuditCheck(should="HD95 is defined", run=per_model(scores.hd95)),
    "background": AuditCheck(should="DSC is not mostly background", run=scores.background),
    "saved": AuditCheck(should="saved volumes score the same", run=per_model(scores.saved)),
    "bounds": AuditCheck(should="changes are within budget", run=per_model(scores.bounds)),
    "certified": AuditCheck(should="no attack beats a certificate", run=per_model(scores.certified)),
    "ranking": AuditCheck(should="threat models are not mixed", run=scores.ranking),
    "distances": AuditCheck(should="how far attacks go", run=scores.distances),
}
DECIDING: Mapping[str, tuple[str, ...]] = {
    "a black-box search": ("square",),
    "noise of equal size": ("noise_linf", "noise_l2"),
    "more steps": ("steps",),
    "a random start": ("restarts",),
}
"""Comparisons without which a model has no verdict, by the checks any of which makes them."""


def titled(name: str) -> str:
    """Returns a check's name and the statement that should hold, as every table shows them."""
    return f"{name}: {CHECKS[name].should}"


def audited(evidence: Evidence) -> tuple[Finding, ...]:
    """Returns the findings of all checks, in the order of CHECKS."""
    findings = []
    for name, check in CHECKS.items():
        for finding in check.run(evidence):
            findings.append(replace(finding, check=name, sentence=reword_dsc(finding.sentence, finding.dataset)))
    return tuple(findings)


@dataclass(frozen=True, kw_only=True)
class ModelVerdict:
    """Verdict on one model: its signs of masked gradients, and its claims of robustness."""

    dataset: str
    model: str
    checks: Mapping[Verdict, tuple[str, ...]]  # names of the checks of gradients, by verdict
    claims: tuple[Finding, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """Violated checks of gradients."""
        return self.checks["violated"]

    @property
    def verdict(self) -> str:
        """Verdict in a word: `flagged`, `in doubt`, `no sign`, or `not checked` if a comparison of DECIDING lacks."""
        if self._names("violated"):
            return "flagged"
        if self._names("in doubt"):
            return "in doubt"
        return "not checked" if self.lacking else "no sign"

    @property
    def lacking(self) -> tuple[str, ...]:
        """Comparisons of DECIDING that were not made. Restarts of one network, which have no order to change, were."""
        made = {*self.checks["violated"], *self.checks["in doubt"], *self.checks["holds"]}
        made |= {"restarts"} & {*self.checks["noted"]}
        return tuple(words for words, names in DECIDING.items() if made.isdisjoint(names))

    @property
    def counts(self) -> tuple[int, int]:
        """Number of checks that hold, and of all."""
        names = {verdict: set(self._names(verdict)) for verdict in VERDICTS}
        return len(names.pop("holds").difference(*names.values())), len(set().union(*map(self._names, VERDICTS)))

    @property
    def label(self) -> str:
        """The verdict with the number of checks that hold: `no sign (11 of 12)`."""
        return "{} ({} of {})".format(self.verdict, *self.counts)

    @property
    def brief(self) -> str:
        """The verdict in a line: the checks that it rests on or lacks, and how many hold and were not made."""
        reasons = self._names("violated") or self._names("in doubt") or self.lacking
        held, total = self.counts
        text = f"{self.verdict}{': ' if reasons else ''}{', '.join(reasons)}; {held} of {amount(total, 'check')} hold"
        return f"{text}, {len(unmade)} not made" if (unmade := {*self._names("not checked")}) else text

    @property
    def sentence(self) -> str:
        """Sentence on what was found in how many checks; it claims no more."""
        fallen = [each.sentence for each in self.claims if each.verdict == "violated"]
        num_held = len(self.checks["holds"])
        made = len(self.flags) + len(self.checks["in doubt"]) + num_held
        if self.flags:
            signs = f"{amount(len(self.flags), 'sign')} of masked gradients in {amount(made, 'check')}"
        elif made:
            total = sum(map(len, self.checks.values()))
            signs = f"no sign of masked gradients in {num_held} of {amount(total, 'check')}"
        else:
            signs = "no check of gradients was made"
        if flagged := ("strongest",) * bool(fallen) + self.flags:
            stronger = "a stronger attack with the same bounds is known; " if fallen else ""
            sentences = [f"flagged: it does not hold that {_statements(flagged)} ({stronger}{signs}).", *fallen]
        else:
            little = f", which decides nothing without {', '.join(self.lacking)}" if self.lacking else ""
            sentences = [f"{signs[0].upper()}{signs[1:]}{little}." if made else "Nothing could be checked."]
        beside: tuple[Verdict, ...] = ("in doubt", "noted", "not checked") if flagged or made else ("in doubt", "noted")
        named = {verdict: self._names(verdict) for verdict in beside}
        sentences += [f"{verdict.capitalize()}: {_statements(names)}." for verdict, names in named.items() if names]
        return " ".join(sentences)

    def _names(self, verdict: Verdict) -> tuple[str, ...]:
        """Checks of gradients with a verdict, and `strongest` for claims, which are never noted."""
        is_claim = verdict != "noted" and any(each.verdict == verdict for each in self.claims)
        return self.checks[verdict] + (("strongest",) if is_claim else ())


def _statements(names: Iterable[str]) -> str:
    return "; ".join(CHECKS[name].should for name in names)


def may_be_made(finding: Finding) -> bool:
    """True if the check of a `finding` was not made, and cells that `audit --run` adds may make it."""
    decided = {unchecked(reason).sentence for reason in SILENT.values()}
    return finding.verdict == "not checked" and finding.check != "transfer" and finding.sentence not in decided


def verdicts(findings: tuple[Finding, ...]) -> list[ModelVerdict]:
    """Returns one verdict per dataset and model, from those of `findings` that are of gradients and of claims."""
    signs = [each for each in findings if CHECKS[each.check].is_masking]
    claims = [each for each in findings if CHECKS[each.check].is_claim]
    results = []
    for place in sorted({(each.dataset, each.model) for each in (*signs, *claims)}):
        of_model = [each for each in signs if (each.dataset, each.model) == place]
        checks: dict[Verdict, tuple[str, ...]] = {}
        for verdict in VERDICTS:
            checks[verdict] = tuple(each.check for each in of_model if each.verdict == verdict)
        claimed = tuple(each for each in claims if (each.dataset, each.model) == place)
        dataset, model = place
        results.append(ModelVerdict(dataset=dataset, model=model, checks=checks, claims=claimed))
    return results
