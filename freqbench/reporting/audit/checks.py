"""The checks of the audit in one table: what should hold, and the function that looks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from freqbench.reporting.audit.credit import credit
from freqbench.reporting.audit.evidence import Evidence
from freqbench.reporting.audit.findings import HOLDS, IN_DOUBT, NOT_CHECKED, NOTED, VIOLATED, Finding, counted
from freqbench.reporting.audit.gradients import converged, same_gradients, zero_gradients
from freqbench.reporting.audit.masking import budget, iterative, square, steps, transfer, unbounded
from freqbench.reporting.audit.noise import noise_l2, noise_linf
from freqbench.reporting.audit.restarts import restarts
from freqbench.reporting.audit.scores import background, clean, hd95, organs, saved
from freqbench.reporting.audit.threat import bounds, distances, ranking


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        should: what should hold, a statement.
        run: the findings of all models.
        is_masking: whether a violation is a sign of masked gradients.
    """

    should: str
    run: Callable[[Evidence], list[Finding]]
    is_masking: bool = False


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
    """What the signs of masked gradients come to for one model.

    Attributes:
        dataset: where.
        model: which.
        flags: the violated checks.
        doubts: those in doubt.
        held: those that held.
        noted: those that found a fact which is neither right nor wrong.
        unchecked: those that were not made.
    """

    dataset: str
    model: str
    flags: tuple[str, ...]
    doubts: tuple[str, ...]
    held: tuple[str, ...]
    noted: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """`flagged`, `in doubt`, `no sign`, or `not checked`, where not one check could be made."""
        if self.flags:
            return "flagged"
        if self.doubts:
            return IN_DOUBT
        return "no sign" if self.held else NOT_CHECKED

    @property
    def sentence(self) -> str:
        """What was found in how many checks; never more than that."""
        made = len(self.flags) + len(self.doubts) + len(self.held)
        total = made + len(self.noted) + len(self.unchecked)
        rest = {"In doubt": self.doubts, "Noted": self.noted, "Not checked": self.unchecked}
        besides = "".join(f" {name}: {', '.join(checks)}." for name, checks in rest.items() if checks)
        if self.flags:
            signs = counted(len(self.flags), "sign")
            found = f"{signs} of masked gradients in {counted(made, 'check')}"
            return f"flagged: {', '.join(self.flags)} ({found}).{besides}"
        if not made:
            return "Nothing could be checked."
        return f"No sign of masked gradients in {len(self.held)} of {counted(total, 'check')}.{besides}"


def audited(evidence: Evidence) -> tuple[Finding, ...]:
    """The findings of all checks, in the order of CHECKS."""
    return tuple(finding for check in CHECKS.values() for finding in check.run(evidence))


def verdicts(findings: tuple[Finding, ...]) -> list[ModelVerdict]:
    """One verdict a dataset and model, from the checks that are signs of masked gradients."""
    own: dict[tuple[str, str], dict[str, list[str]]] = {}
    for finding in findings:
        if CHECKS[finding.check].is_masking:
            place = own.setdefault((finding.dataset, finding.model), {})
            place.setdefault(finding.verdict, []).append(finding.check)
    return [
        ModelVerdict(
            dataset=dataset,
            model=model,
            flags=tuple(found.get(VIOLATED, ())),
            doubts=tuple(found.get(IN_DOUBT, ())),
            held=tuple(found.get(HOLDS, ())),
            noted=tuple(found.get(NOTED, ())),
            unchecked=tuple(found.get(NOT_CHECKED, ())),
        )
        for (dataset, model), found in sorted(own.items())
    ]
