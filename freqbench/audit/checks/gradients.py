"""Facts of gradients, as audit --run measured them: are they there, are they the same twice, do they still rise?"""

import math
from collections.abc import Iterator

import numpy as np

from freqbench.audit.checks.evidence import Evidence
from freqbench.audit.checks.findings import HOLDS, IN_DOUBT, NOTED, VIOLATED, Finding, counted
from freqbench.audit.checks.per_model import unchecked
from freqbench.audit.measurements import GradientFacts, Gradients
from freqbench.ops.gradients import share_at_end

ZERO_SHARES = (0.1, 0.5)
AGREEMENTS = (0.999, 0.99)
"""Sums in another order flip a few signs in ten thousand, on a GPU also between two equal passes."""
RISES = (0.05, 0.1)
_MEASURED = "needs audit --run, which measures it"


def zero_gradients(evidence: Evidence) -> list[Finding]:
    """The gradient at clean voxels is not exactly zero."""
    findings = []
    for dataset, model, windows, _ in _probed(evidence):
        errors = [window.error for window in windows if window.zero_share is None]
        shares = [window.zero_share for window in windows if window.zero_share is not None]
        if not windows:
            findings.append(unchecked("zero_gradients", dataset, model, _MEASURED))
            continue
        share = float(np.mean(shares)) if shares else 1.0
        text = (
            f"{100 * share:.1f} % of voxels have a gradient of exactly 0 or none that is finite, over {_count(windows)}"
        )
        if errors:
            text = f"No gradient in {len(errors)} of {len(windows)} windows: {errors[0]}"
        verdict = VIOLATED if errors else _graded(share, ZERO_SHARES)
        findings.append(_fact("zero_gradients", dataset, model, verdict, f"{text}.", windows))
    return findings


def same_gradients(evidence: Evidence) -> list[Finding]:
    """Two gradients at the same point have the same signs."""
    findings = []
    for dataset, model, windows, _ in _probed(evidence):
        shares = [window.sign_agreement for window in windows if window.sign_agreement is not None]
        if not shares:
            reason = "no voxel has a gradient" if windows else _MEASURED
            findings.append(unchecked("same_gradients", dataset, model, reason))
            continue
        share = float(np.mean(shares))
        verdict = _graded(1 - share, tuple(1 - limit for limit in AGREEMENTS))
        text = f"{100 * share:.2f} % of the signs of two gradients at the same point agree, over {_count(windows)}"
        draws = max(window.draws or 0 for window in windows)
        if draws > 1 and verdict != HOLDS:
            verdict = NOTED
            text += f": the defence draws at random, and attacks average {draws} draws at every pass"
        elif verdict == VIOLATED:
            text += ": the model draws at random, so average gradients over its draws before believing an attack"
        findings.append(_fact("same_gradients", dataset, model, verdict, f"{text}.", windows))
    return findings


def converged(evidence: Evidence) -> list[Finding]:
    """The loss of PGD hardly rises any more in the last tenth of its steps."""
    findings = []
    for dataset, model, windows, probe in _probed(evidence):
        shares = [share_at_end(window.losses) for window in windows if window.losses]
        shares = [share for share in shares if not math.isnan(share)]
        if probe is None or not shares:
            reason = "no loss rose at all, so there is no curve to look at" if windows else _MEASURED
            findings.append(unchecked("converged", dataset, model, reason))
            continue
        share = float(np.median(shares))
        verdict = _graded(share, RISES)
        radii = ", ".join(f"{eps * 255:.3g}/255" for eps in sorted({window.eps for window in windows}))
        text = (
            f"The last tenth of {probe.steps} steps (pgd eps={radii} step_size={probe.step_size}) "
            f"makes {100 * share:.1f} % of the loss's whole rise, by the median over {_count(windows)}"
        )
        if verdict != HOLDS:
            text += ": more steps would hurt more, so these numbers are too kind to the model"
        else:
            text += "; whether another loss or optimiser does more is a check of its own"
        findings.append(_fact("converged", dataset, model, verdict, f"{text}.", windows))
    return findings


def _probed(evidence: Evidence) -> Iterator[tuple[str, str, list[GradientFacts], Gradients | None]]:
    """Each model with the windows that were looked at, none where none were."""
    ids = evidence.records[["target_model", "target_model_id"]].drop_duplicates()
    names = {str(key): str(name) for name, key in ids.itertuples(index=False, name=None)}
    for dataset, model in evidence.models:
        windows: list[GradientFacts] = []
        last = None
        for probe in evidence.gradients:
            own = [each for each in probe.windows if (each.dataset, names.get(each.model_id)) == (dataset, model)]
            windows, last = windows + own, probe if own else last
        yield dataset, model, windows, last


def _graded(value: float, limits: tuple[float, ...]) -> str:
    """By two limits: above the second violated, above the first in doubt."""
    doubtful, wrong = limits
    return VIOLATED if value > wrong else IN_DOUBT if value > doubtful else HOLDS


def _count(windows: list[GradientFacts]) -> str:
    cases = len({window.case_id for window in windows})
    return f"{counted(len(windows), 'window')} of {counted(cases, 'case')}"


def _fact(check: str, dataset: str, model: str, verdict: str, sentence: str, windows: list[GradientFacts]) -> Finding:
    cases = len({window.case_id for window in windows})
    return Finding(
        check=check,
        dataset=dataset,
        model=model,
        verdict=verdict,
        sentence=sentence,
        comparisons=len(windows),
        cases=cases,
    )
