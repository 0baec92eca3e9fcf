"""The checks of the audit in one table: what should hold, and the function that looks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from freqbench.audit.checks.credit import credit
from freqbench.audit.checks.evidence import Evidence
from freqbench.audit.checks.findings import HOLDS, IN_DOUBT, NOT_CHECKED, NOTED, VIOLATED, Finding, counted
from freqbench.audit.checks.gradients import converged, same_gradients, zero_gradients
from freqbench.audit.checks.masking import budget, iterative, square, steps, transfer, unbounded
from freqbench.audit.checks.noise import noise_l2, noise_linf
from freqbench.audit.checks.restarts import restarts
from freqbench.audit.checks.scores import background, clean, hd95, organs, saved
from freqbench.audit.checks.strongest import strongest
from freqbench.audit.checks.threat import bounds, distances, ranking


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        should: what should hold, a statement.
        run: the findings of all models.
        is_masking: whether a violation is a sign of masked gradients.
        is_claim: whether a violation makes a claim of robustness fall, whatever the gradients.
    """

    should: str
    run: Callable[[Evidence], list[Finding]]
    is_masking: bool = False
    is_claim: bool = False


def _masking(should: str, run: Callable[[Evidence], list[Finding]]) -> Check:
    return Check(should=should, run=run, is_masking=True)


CHECKS: Mapping[str, Check] = {
    "budget": _masking("a larger budget hurts more", budget),
    "steps": _masking("more steps hurt more", steps),
    "unbounded": _masking("without a bound nothing is left", unbounded),
    "iterative": _masking("many steps beat one step", iterative),
    "transfer": _masking("white-box beats transfer", transfer),
    "noise_linf": _masking("gradients beat noise of equal L-inf", noise_linf),
    "noise_l2": _masking("gradients beat noise of equal L2", noise_l2),
    "square": _masking("black-box does not beat gradients", square),
    "restarts": _masking("restarts do not change the order", restarts),
    "zero_gradients": _masking("gradients are not zero", zero_gradients),
    "same_gradients": _masking("gradients are the same twice", same_gradients),
    "strongest": Check(should="no attack with the same bounds is stronger", run=strongest, is_claim=True),
    "converged": Check(should="the loss has settled", run=converged),
    "credit": Check(should="the optimisation does the damage", run=credit),
    "clean": Check(should="clean volumes are segmented", run=clean),
    "organs": Check(should="every label has every class", run=organs),
    "hd95": Check(should="HD95 is defined", run=hd95),
    "background": Check(should="DSC is not mostly background", run=background),
    "saved": Check(should="saved volumes score the same", run=saved),
    "bounds": Check(should="changes are within budget", run=bounds),
    "ranking": Check(should="threat models are not mixed", run=ranking),
    "distances": Check(should="how far attacks go", run=distances),
}


@dataclass(frozen=True, kw_only=True)
class ModelVerdict:
    """What the signs of masked gradients come to for one model, and whether what is claimed of it holds.

    Attributes:
        dataset: where.
        model: which.
        flags: the violated checks of gradients.
        doubts: those in doubt.
        held: those that held.
        noted: those that found a fact which is neither right nor wrong.
        unchecked: those that were not made.
        fallen: a sentence for each claim that a stronger attack refutes.
        claims: the verdicts of its claims.
    """

    dataset: str
    model: str
    flags: tuple[str, ...]
    doubts: tuple[str, ...]
    held: tuple[str, ...]
    noted: tuple[str, ...]
    unchecked: tuple[str, ...]
    fallen: tuple[str, ...]
    claims: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """`flagged`, `in doubt`, `no sign`, or `not checked`, where not one check could be made."""
        if self.flags or self.fallen:
            return "flagged"
        if self.doubts or IN_DOUBT in self.claims:
            return IN_DOUBT
        return "no sign" if self.held else NOT_CHECKED

    @property
    def sentence(self) -> str:
        """What was found in how many checks; never more than that."""
        flagged = (("strongest",) if self.fallen else ()) + self.flags
        if flagged:
            known = ("a stronger attack with the same bounds is known",) if self.fallen else ()
            found = [f"flagged: {', '.join(flagged)} ({'; '.join((*known, self._signs))}).", *self.fallen]
        elif self._num_made:
            found = [f"{self._signs[0].upper()}{self._signs[1:]}."]
        else:
            found = ["Nothing could be checked."]
        return " ".join([*found, *self._besides(with_unchecked=bool(flagged or self._num_made))])

    @property
    def _num_made(self) -> int:
        return len(self.flags) + len(self.doubts) + len(self.held)

    @property
    def _signs(self) -> str:
        if self.flags:
            return f"{counted(len(self.flags), 'sign')} of masked gradients in {counted(self._num_made, 'check')}"
        if not self._num_made:
            return "no check of gradients was made"
        total = self._num_made + len(self.noted) + len(self.unchecked)
        return f"no sign of masked gradients in {len(self.held)} of {counted(total, 'check')}"

    def _besides(self, with_unchecked: bool) -> Iterator[str]:
        claim = {verdict: ("strongest",) if verdict in self.claims else () for verdict in (IN_DOUBT, NOT_CHECKED)}
        rest = {"In doubt": self.doubts + claim[IN_DOUBT], "Noted": self.noted}
        if with_unchecked:
            rest["Not checked"] = self.unchecked + claim[NOT_CHECKED]
        yield from (f"{name}: {', '.join(checks)}." for name, checks in rest.items() if checks)


def audited(evidence: Evidence) -> tuple[Finding, ...]:
    """The findings of all checks, in the order of CHECKS."""
    return tuple(finding for check in CHECKS.values() for finding in check.run(evidence))


def verdicts(findings: tuple[Finding, ...]) -> list[ModelVerdict]:
    """One verdict a dataset and model, from the checks of gradients and of claims."""
    own: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if CHECKS[finding.check].is_masking or CHECKS[finding.check].is_claim:
            own.setdefault((finding.dataset, finding.model), []).append(finding)
    return [_verdict(dataset, model, found) for (dataset, model), found in sorted(own.items())]


def _verdict(dataset: str, model: str, findings: list[Finding]) -> ModelVerdict:
    def checks(verdict: str) -> tuple[str, ...]:
        return tuple(each.check for each in findings if CHECKS[each.check].is_masking and each.verdict == verdict)

    claims = [each for each in findings if CHECKS[each.check].is_claim]
    return ModelVerdict(
        dataset=dataset,
        model=model,
        flags=checks(VIOLATED),
        doubts=checks(IN_DOUBT),
        held=checks(HOLDS),
        noted=checks(NOTED),
        unchecked=checks(NOT_CHECKED),
        fallen=tuple(each.sentence for each in claims if each.verdict == VIOLATED),
        claims=tuple(each.verdict for each in claims),
    )
