"""Is an attack more than its size? Against random noise of the same norm, which knows nothing of the model."""

from collections.abc import Iterator

import pandas as pd

from freqbench.audit.checks.contrasts import Contrast, is_close
from freqbench.audit.checks.evidence import Evidence, Setting
from freqbench.audit.checks.findings import Finding
from freqbench.audit.checks.per_model import by_contrasts, linf, white_box

NOISE = frozenset({"random_noise", "gn"})
EQUAL_L2 = 0.1


def noise_linf(evidence: Evidence) -> list[Finding]:
    """A gradient attack is clearly stronger than random noise of equal L-infinity norm."""
    needs = "random_noise with linf equal to the eps of a gradient attack on this model"
    statement = "Gradient attacks hurt more than noise of equal L-infinity norm"
    return by_contrasts("noise_linf", evidence, _noises, statement, needs, strict=True)


def _noises(evidence: Evidence, dataset: str, model: str) -> Iterator[Contrast]:
    noises = [each for each in _noise(evidence, dataset, model) if each.threat_model == "linf"]
    for attack in linf(evidence, dataset, model):
        for noise in noises:
            if is_close(attack.budget, noise.budget):
                yield white_box(dataset, model, attack, noise)


def noise_l2(evidence: Evidence) -> list[Finding]:
    """A gradient attack is clearly stronger than random noise of equal L2 norm inside the body (within 10 %)."""
    needs = "random_noise or gn within 10 % of a gradient attack's L2 norm inside the body, on this model"
    statement = "Gradient attacks hurt more than noise of equal L2 norm in the body"
    return by_contrasts("noise_l2", evidence, _noises_l2, statement, needs, strict=True)


def _noises_l2(evidence: Evidence, dataset: str, model: str) -> Iterator[Contrast]:
    norms = evidence.white_box(dataset, model, "l2_body")
    noises = [each for each in _noise(evidence, dataset, model) if each.label in norms]
    for attack in evidence.attacks_on(dataset, model):
        if not attack.is_gradient or attack.label not in norms:
            continue
        gaps = {noise.label: _gap(norms[attack.label], norms[noise.label]) for noise in noises}
        near = [noise for noise in noises if gaps[noise.label] <= EQUAL_L2]
        if near:
            yield white_box(dataset, model, attack, min(near, key=lambda noise: gaps[noise.label]))


def _gap(a: pd.Series, b: pd.Series) -> float:
    """Relative difference of the means over the cases that both have."""
    both = pd.concat([a, b], axis=1).dropna().mean()
    largest = float(both.max())
    return float(both.max() - both.min()) / largest if largest > 0 else float("inf")


def _noise(evidence: Evidence, dataset: str, model: str) -> list[Setting]:
    return [each for each in evidence.attacks_on(dataset, model) if each.attack in NOISE and each.is_plain]
