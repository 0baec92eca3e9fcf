"""What checks of single models share: which rows count, and one finding a model from its contrasts."""

from collections.abc import Callable, Iterator, Sequence

from freqbench.audit.checks.contrasts import Contrast, judge, summed
from freqbench.audit.checks.evidence import Evidence, Setting
from freqbench.audit.checks.findings import NOT_CHECKED, Finding

LEAST_CLEAN = 20.0
"""Mean clean foreground DSC x100 below which a model has nothing that an attack could take."""

SILENT = {
    True: "there are such rows, but the noise alone leaves nothing, or they share no case",
    False: "there are such rows, but none of them takes more than 0.5 points, or they share no case",
}
"""Why rows that are there say nothing, by whether the one must be clearly better."""

Find = Callable[[Evidence, str, str], Iterator[Contrast]]


def by_contrasts(
    check: str, evidence: Evidence, find: Find, statement: str, needs: str, strict: bool = False
) -> list[Finding]:
    """A finding a model from its contrasts.

    Attacks that raise different losses are not compared: that one does more says which loss is the better one for the
    DSC, and nothing of gradients. Noise raises none, so that every attack is held against it (`strict`).
    """
    findings = []
    for dataset, model in evidence.models:
        if reason := spared(evidence, dataset, model):
            findings.append(unchecked(check, dataset, model, reason))
            continue
        found = list(find(evidence, dataset, model))
        contrasts = [each for each in found if strict or not _crosses(evidence, each)]
        judged = [each for each in judge(evidence, contrasts, strict) if not each.is_silent]
        if judged:
            findings.append(summed(check, dataset, model, judged, statement))
        elif found and not contrasts:
            findings.append(unchecked(check, dataset, model, f"{_losses(evidence, found)}: needs {needs}"))
        elif contrasts:
            findings.append(unchecked(check, dataset, model, SILENT[strict]))
        else:
            findings.append(unchecked(check, dataset, model, f"needs {needs}"))
    return findings


def _crosses(evidence: Evidence, contrast: Contrast) -> bool:
    """Whether the two raise different losses."""
    return len({evidence.settings[label].raises for _, _, label in (contrast.strong, contrast.weak)}) > 1


def _losses(evidence: Evidence, contrasts: Sequence[Contrast]) -> str:
    """What contrasts that cross losses raise, and that they say nothing."""
    pairs = [[evidence.settings[label] for _, _, label in (each.strong, each.weak)] for each in contrasts]
    texts = [" and ".join(f"{each.attack} ({each.raises})" for each in pair) for pair in pairs]
    return f"{', '.join(dict.fromkeys(texts))} raise different losses, which says nothing of gradients"


def spared(evidence: Evidence, dataset: str, model: str) -> str:
    """Why nothing can be said of a model whatever attacked it; empty where something can."""
    clean = evidence.clean(dataset, model)
    if len(clean) and clean.mean() < LEAST_CLEAN:
        return (
            f"the mean clean foreground DSC is {clean.mean():.1f}, below {LEAST_CLEAN:g}: there is nothing to take "
            "from this model"
        )
    return "" if evidence.attacks_on(dataset, model) else "no attack that was made on this model was scored on it"


def unchecked(check: str, dataset: str, model: str, reason: str) -> Finding:
    """That a check could not be made, and why."""
    return Finding(
        check=check, dataset=dataset, model=model, verdict=NOT_CHECKED, sentence=f"{reason[0].upper()}{reason[1:]}."
    )


def linf(evidence: Evidence, dataset: str, model: str) -> list[Setting]:
    """The plain L-infinity attacks on a model that follow its gradient."""
    return [each for each in evidence.attacks_on(dataset, model) if each.threat_model == "linf" and each.is_gradient]


def families(settings: Sequence[Setting], *names: str) -> list[list[Setting]]:
    """Settings that differ in these parameters alone, two or more together."""
    found: dict[object, list[Setting]] = {}
    for setting in settings:
        found.setdefault(setting.same_but(*names), []).append(setting)
    return [family for family in found.values() if len(family) > 1]


def white_box(dataset: str, model: str, strong: Setting, weak: Setting, hint: str = "") -> Contrast:
    """Two attacks that were made on the model itself."""
    own = (model, model)
    return Contrast(dataset=dataset, strong=(*own, strong.label), weak=(*own, weak.label), hint=hint)
