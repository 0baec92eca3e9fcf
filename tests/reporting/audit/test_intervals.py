"""Student's t over patients: as scipy has it where each has one value, and what it covers where some have several."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from freqbench.reporting.audit.intervals import t_intervals


def interval(values: list[float], patients: list[str]) -> dict[str, float]:
    frame = pd.DataFrame({"group": 0, "value": values, "patient_id": patients})
    return t_intervals(frame, ["group"], "value").iloc[0].to_dict()


def test_of_one_value_a_patient_it_is_that_of_scipy() -> None:
    values = [3.0, 4.5, 1.0, 2.25, 7.0]
    found = interval(values, list("abcde"))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert (found["n"], found["clusters"]) == (5, 5)


def test_two_equal_cases_of_each_patient_are_not_more_patients() -> None:
    values = [3.0, 4.5, 1.0]
    once, twice = interval(values, list("abc")), interval(values * 2, list("abcabc"))
    assert (twice["low"], twice["high"]) == pytest.approx((once["low"], once["high"]))
    assert (twice["n"], twice["clusters"]) == (6, 3)


def test_one_patient_has_no_interval_and_undefined_values_are_no_values() -> None:
    found = interval([1.0, 2.0, math.nan], ["a", "a", "b"])
    assert (found["mean"], found["n"], found["clusters"]) == (1.5, 2, 1)
    assert math.isnan(found["low"])
    assert math.isnan(found["high"])


@pytest.mark.parametrize("patients", [3, 6])
def test_it_covers_what_it_says(patients: int) -> None:
    """Patients of one to three cases whose means spread like the cases of one."""
    rng = np.random.default_rng(0)
    number, size = np.meshgrid(np.arange(2000), np.arange(patients))
    counts = 1 + (size.ravel() + number.ravel()) % 3
    group, patient = np.repeat(number.ravel(), counts), np.repeat(size.ravel(), counts)
    own = np.repeat(rng.normal(size=size.size), counts) + rng.normal(size=counts.sum())
    found = t_intervals(pd.DataFrame({"g": group, "value": own, "patient_id": patient}), ["g"], "value")
    covered = ((found["low"] < 0) & (found["high"] > 0)).mean()
    assert 0.93 < covered < 0.98
