"""Means over patients and networks: by hand, against other ways to the same number, and their coverage."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from freqbench.analysis.nested import nested_interval, nested_intervals

BY_HAND = np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 2.0]])


def test_a_table_by_hand() -> None:
    """Means of the patients 1.5, 4, 2 (variance 7/4), of the networks 2 and 3; residuals of the first network 0,
    -1/2, 1/2 and of the second their negatives. So MS between networks is 3 (1/2 + ...) = 3/2 and of residuals 1/2:
    the variance of the mean is 7/12 + (3/2 - 1/2) / 6 = 3/4, with (3/4)^2 / ((7/12)^2 / 2 + (1/4)^2 / 1 + (1/12)^2 / 2)
    = 81/34 degrees of freedom."""
    found = nested_interval(BY_HAND)
    reach = stats.t.ppf(0.975, 81 / 34) * 0.75**0.5
    assert (found.mean, found.df, found.networks, found.patients) == (2.5, pytest.approx(81 / 34), 2, 3)
    assert (found.low, found.high) == pytest.approx((2.5 - reach, 2.5 + reach))


def test_networks_that_agree_are_student_s_t_over_patients() -> None:
    scores = np.array([0.2, 0.5, 0.9, 0.4])
    found = nested_interval(np.stack([scores, scores, scores], axis=1))
    theirs = stats.ttest_1samp(scores, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_patients_that_agree_are_student_s_t_over_networks() -> None:
    scores = np.array([0.2, 0.5, 0.9, 0.4])
    found = nested_interval(np.stack([scores, scores, scores]))
    theirs = stats.ttest_1samp(scores, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_one_network_each_is_the_paired_t_test() -> None:
    first, second = np.array([0.9, 0.8, 0.5, 0.7]), np.array([0.4, 0.7, 0.3, 0.1])
    found = nested_interval(first[:, None], minus=second[:, None])
    theirs = stats.ttest_rel(first, second).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_networks_of_two_methods_on_like_patients_are_welch_s_t_test() -> None:
    """Patients that differ by a number that is the same for all networks leave the networks' spread alone."""
    patients, first, second = np.array([[0.0], [3.0], [7.0]]), np.array([0.9, 0.8, 0.5]), np.array([0.4, 0.7, 0.3, 0.1])
    found = nested_interval(patients + first, minus=patients + second)
    theirs = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_one_patient_has_no_interval() -> None:
    found = nested_interval([[0.1, 0.3]])
    assert found.mean == pytest.approx(0.2)
    assert np.isnan([found.low, found.high, found.df]).all()


@pytest.mark.parametrize("spread", [(1, 0, 0.3), (1, 0.5, 0.3), (0.5, 1, 0.5), (1, 0.2, 1)])
@pytest.mark.parametrize(("patients", "networks"), [(6, 3), (12, 3), (12, 5)])
def test_it_covers_the_truth(spread: tuple[float, float, float], patients: int, networks: int) -> None:
    """Of normal effects of patients, networks and both; the share of 600 draws has a standard error of 0.9 points."""
    rng = np.random.default_rng(0)
    between, within, residual = spread
    draws = 600
    tables = (
        between * rng.standard_normal((draws, patients, 1))
        + within * rng.standard_normal((draws, 1, networks))
        + residual * rng.standard_normal((draws, patients, networks))
    )
    found = [nested_interval(table) for table in tables]
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.91 <= covered <= 0.985


def test_seeds_of_an_interval_over_patients_alone_are_not_covered() -> None:
    """What the nested interval is for: of 12 patients and one network, as far apart as patients, it covers half."""
    rng = np.random.default_rng(0)
    tables = rng.standard_normal((400, 12, 1)) + rng.standard_normal((400, 1, 1))
    found = [nested_interval(table) for table in tables]
    assert np.mean([each.low <= 0 <= each.high for each in found]) < 0.6


@pytest.mark.parametrize(
    ("values", "minus", "complaint"),
    [
        ([1.0, 2.0], None, r"expected finite values \[patients, networks\], got \(2,\)"),
        ([[1.0, np.nan]], None, "leave out what is undefined"),
        (np.zeros((0, 2)), None, r"got \(0, 2\)"),
        (np.zeros((3, 2)), np.zeros((2, 2)), "expected tables of the same patients, got 3 and 2"),
    ],
)
def test_what_is_no_table_is_refused(values: object, minus: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        nested_interval(values, minus)  # type: ignore[arg-type]


@pytest.fixture
def frame() -> pd.DataFrame:
    """The table by hand as method `a`, each patient of two cases around it, and method `b` of one network."""
    rows = [
        {"method": "a", "target_model": f"a{n}", "patient_id": f"p{p}", "dsc": BY_HAND[p, n] + shift}
        for n in range(2)
        for p in range(3)
        for shift in (-0.1, 0.1)
    ]
    rows += [{"method": "b", "target_model": "b", "patient_id": f"p{p}", "dsc": 0.5 * p} for p in range(3)]
    return pd.DataFrame(rows)


def test_a_row_a_method(frame: pd.DataFrame) -> None:
    found = nested_intervals(frame, "dsc").set_index("method")
    expected = nested_interval(BY_HAND)
    first = found.loc["a"]
    assert (first["networks"], first["patients"], found.loc["b", "networks"]) == (2, 3, 1)
    assert tuple(first[["mean", "low", "high", "df"]]) == pytest.approx(
        (expected.mean, expected.low, expected.high, expected.df)
    )


def test_a_patient_that_one_network_lacks_is_left_out(frame: pd.DataFrame) -> None:
    further = {"method": "a", "target_model": "a0", "patient_id": "p9", "dsc": 9.0}
    pd.testing.assert_frame_equal(
        nested_intervals(pd.concat([frame, pd.DataFrame([further])]), "dsc"), nested_intervals(frame, "dsc")
    )


def test_behind_is_the_difference_to_one_method(frame: pd.DataFrame) -> None:
    found = nested_intervals(frame, "dsc", behind="a").set_index("method")
    expected = nested_interval(BY_HAND, minus=[[0.0], [0.5], [1.0]])
    assert tuple(found.loc["b", ["mean", "low", "high"]]) == pytest.approx((expected.mean, expected.low, expected.high))
    assert pd.isna(found.loc["a", "mean"])


def test_categoricals_give_the_same_as_texts(frame: pd.DataFrame) -> None:
    coded = frame.astype(dict.fromkeys(("method", "target_model", "patient_id"), "category"))
    pd.testing.assert_frame_equal(nested_intervals(coded, "dsc"), nested_intervals(frame, "dsc"))
