"""Coverage of 95 % intervals of a mean DSC: Student's t, t on the logit scale, percentile bootstrap and BCa."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from freqbench.analysis import statistics
from freqbench.analysis.statistics import inside

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

STUDIES = 4000
RARE = "one in ten Beta(1, 5), else Beta(30, 5)"  # few patients rarely show it, so no interval covers

SCORES: dict[str, tuple[Draw, float]] = {  # how a patient's DSC is drawn, and its mean
    "clean, Beta(30, 5)": (lambda rng, shape: rng.beta(30, 5, shape), 30 / 35),
    "attacked, Beta(4, 4)": (lambda rng, shape: rng.beta(4, 4, shape), 0.5),
    "broken, Beta(0.6, 3)": (lambda rng, shape: rng.beta(0.6, 3, shape), 0.6 / 3.6),
    "some broken, Beta(0.5, 0.5)": (lambda rng, shape: rng.beta(0.5, 0.5, shape), 0.5),
    "two in five 0, else Beta(1, 8)": (lambda rng, shape: rng.beta(1, 8, shape) * (rng.random(shape) < 0.6), 0.6 / 9),
    RARE: (
        lambda rng, shape: np.where(rng.random(shape) < 0.1, rng.beta(1, 5, shape), rng.beta(30, 5, shape)),
        0.9 * 30 / 35 + 0.1 / 6,
    ),
}

pytestmark = pytest.mark.benchmark


def student(values: Array) -> tuple[Array, Array]:
    count = values.shape[1]
    mean = values.mean(axis=1)
    error = values.std(axis=1, ddof=1) / np.sqrt(count)
    reach = special.stdtrit(count - 1, 0.975) * error
    return mean - reach, mean + reach


def on_logits(values: Array) -> tuple[Array, Array]:
    mean = values.mean(axis=1)
    return inside((0, 1), mean, mean - student(values)[0])


def percentile(values: Array) -> tuple[Array, Array]:
    drawn = values @ statistics._weights(values.shape[1], 500) / values.shape[1]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    return low, high


def bca(values: Array) -> tuple[Array, Array]:
    bounds = statistics._bootstrap(values, np.ones_like(values), lambda means: means)
    return bounds[:, 1], bounds[:, 2]


METHODS = {"t": student, "t on logits": on_logits, "percentile": percentile, "BCa": bca}


@pytest.mark.parametrize("scores", SCORES)
def test_coverage_of_few_patients(scores: str, measured: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    draw, mean = SCORES[scores]
    for patients in (2, 3, 5, 8, 12):
        values = draw(np.random.default_rng(patients), (STUDIES, patients))
        row: dict[str, Any] = {"what": scores, "patients": patients}
        for name, method in METHODS.items():
            low, high = method(values)
            row[name] = float(((low <= mean) & (mean <= high)).mean())
            row[f"{name} beyond"] = float(((low < 0) | (high > 1)).mean())
        measured.append(row)
        assert row["t on logits beyond"] == 0
        assert row["t on logits"] >= row["t"] - 0.005
        assert patients < 3 or row["t on logits"] > max(0.6 if scores == RARE else 0.9, row["BCa"], row["percentile"])
