"""Intervals and tests against scipy, closed forms and published tables."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from freqbench.analysis.clusters import intervals
from freqbench.analysis.statistics import (
    group_spreads,
    holm,
    mean_interval,
    mean_intervals,
    minimum_detectable_difference,
    paired_difference,
    spreads,
    t_intervals,
    t_tests,
)

SKEWED = np.random.default_rng(1).gamma(1.5, size=30)
MANY = 40_000  # resamples: the Monte Carlo error of a bound is then about 0.003 here


def test_from_20_clusters_on_the_interval_is_scipys_bca() -> None:
    found = mean_interval(SKEWED, range(30), resamples=MANY)
    reference = stats.bootstrap((SKEWED,), np.mean, n_resamples=MANY, method="BCa", rng=5).confidence_interval
    percentile = stats.bootstrap((SKEWED,), np.mean, n_resamples=MANY, method="percentile", rng=5).confidence_interval
    assert found.method == "bca"
    assert (found.low, found.high) == pytest.approx(tuple(reference), abs=0.01)
    assert found.high - percentile.high > 0.02  # which the percentile interval would miss


def test_below_20_clusters_the_interval_is_scipys_t() -> None:
    found = mean_interval(SKEWED[:19], range(19), level=0.9)
    reference = stats.ttest_1samp(SKEWED[:19], 0).confidence_interval(0.9)
    assert found.method == "t"
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))


def test_patients_of_unlike_number_of_cases_make_a_ratio() -> None:
    """Sums 0 and 9 of 2 and 1 cases around the mean 3: residuals -6 and 6, so the error is sqrt(2 (36 + 36)) / 3 = 4,
    and t of one degree of freedom is tan(0.475 pi)."""
    found = mean_interval([0.0, 0.0, 9.0], ["a", "a", "b"])
    reach = 4 * math.tan(0.475 * math.pi)
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, 3 - reach, 3 + reach))
    assert (found.n, found.clusters, found.method) == (3, 2, "t")


@pytest.mark.parametrize(("patients", "percentile"), [(3, 0.75), (5, 0.84), (8, 0.89), (12, 0.92)])
def test_few_patients_are_covered_as_the_interval_says(patients: int, percentile: float) -> None:
    """4,000 draws of normal patients; the percentile bootstrap covers less."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, patients))
    group, patient = (axis.ravel() for axis in np.indices(values.shape))
    found = mean_intervals(pd.DataFrame({"g": group, "value": values.ravel(), "patient_id": patient}), ["g"], "value")
    assert 0.94 < ((found["low"] < 0) & (found["high"] > 0)).mean() < 0.96
    drawn = values[:1000, rng.integers(patients, size=(500, patients))].mean(axis=2)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(percentile, abs=0.03)


def test_the_interval_covers_where_patients_have_one_to_three_cases() -> None:
    """The mean of a patient's cases spreads as that of one case does."""
    rng = np.random.default_rng(0)
    group, patient = (axis.ravel() for axis in np.indices((2000, 6)))
    counts = 1 + (patient + group) % 3
    own = np.repeat(rng.normal(size=counts.size), counts) + rng.normal(size=counts.sum())
    frame = pd.DataFrame({"g": np.repeat(group, counts), "value": own, "patient_id": np.repeat(patient, counts)})
    found = mean_intervals(frame, ["g"], "value")
    assert 0.93 < ((found["low"] < 0) & (found["high"] > 0)).mean() < 0.98


@pytest.mark.parametrize("patients", [5, 30])
def test_repeating_the_cases_of_a_patient_narrows_nothing(patients: int) -> None:
    once = mean_interval(SKEWED[:patients], range(patients))
    thrice = mean_interval(np.repeat(SKEWED[:patients], 3), np.repeat(range(patients), 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.n, thrice.clusters) == (3 * patients, patients)


def test_one_patient_has_a_mean_and_no_interval() -> None:
    found = mean_interval([1.0, 3.0], ["a", "a"])
    assert (found.mean, found.n, found.clusters, found.method) == (2.0, 2, 1, "")
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_undefined_values_drop_out_and_are_not_counted() -> None:
    found = mean_interval([1.0, math.nan, 3.0], ["a", "b", "c"])
    assert (found.mean, found.n, found.clusters) == (2.0, 2, 2)
    assert math.isnan(mean_interval([math.nan], ["a"]).mean)
    assert mean_interval([], []).n == 0


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = mean_interval([0.3] * 25, range(25))
    assert (found.low, found.high) == pytest.approx((0.3, 0.3))


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="value 2, cluster 1"):
        mean_interval([1, 2], ["a"])


def test_the_order_of_rows_changes_nothing() -> None:
    order = np.random.default_rng(3).permutation(30)
    assert mean_interval(SKEWED[order], order).low == pytest.approx(mean_interval(SKEWED, np.arange(30)).low)


def test_many_groups_at_once_are_as_each_alone() -> None:
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "attack": pd.Categorical(rng.choice(["pgd", "gn", "never"], 300, p=[0.5, 0.5, 0.0])),
            "budget": rng.choice([1.0, np.nan], 300),
            "patient_id": pd.Categorical(rng.integers(0, 35, 300).astype(str)),
            "dsc": np.where(rng.random(300) < 0.1, np.nan, rng.random(300)),
        }
    )
    rows = mean_intervals(frame, ["attack", "budget"], "dsc")
    assert len(rows) == 4
    for _, row in rows.iterrows():
        own = frame[(frame["attack"] == row["attack"]) & (frame["budget"].fillna(0) == np.nan_to_num(row["budget"]))]
        alone = mean_interval(own["dsc"], own["patient_id"])
        assert tuple(row[["mean", "low", "high"]]) == pytest.approx((alone.mean, alone.low, alone.high))
        assert tuple(row[["n", "clusters", "method"]]) == (alone.n, alone.clusters, alone.method)


def test_a_group_without_a_defined_value_has_a_row_and_no_mean() -> None:
    frame = pd.DataFrame({"g": ["a", "b"], "patient_id": ["p", "p"], "v": [math.nan, 1.0]})
    rows = mean_intervals(frame, ["g"], "v").set_index("g")
    assert rows["mean"].isna().to_dict() == {"a": True, "b": False}
    assert rows["n"].to_dict() == {"a": 0, "b": 1}


@pytest.mark.parametrize("patients", [6, 30])
def test_a_statistic_of_two_means_is_over_the_same_patients(patients: int) -> None:
    """b = 2 a in every patient: the ratio is 2 in every draw, though either mean varies much."""
    sums = np.stack([SKEWED[:patients], 2 * SKEWED[:patients]])
    found = intervals(sums, np.ones_like(sums), lambda means: means[1:] / means[:1], np.array([patients]))
    np.testing.assert_allclose(found, [[2.0, 2.0, 2.0]])


def test_of_a_mean_of_few_patients_the_jackknife_gives_the_t_interval() -> None:
    sums = SKEWED[None, :7]
    found = intervals(sums, np.ones_like(sums), lambda means: means, np.array([7]))
    reference = stats.ttest_1samp(SKEWED[:7], 0).confidence_interval()
    np.testing.assert_allclose(found, [[SKEWED[:7].mean(), reference.low, reference.high]])


def test_patients_without_a_value_are_no_patients_of_a_statistic() -> None:
    """The first mean has values of 7 of 9 patients, the second of one, which is too few."""
    sums = np.stack([np.append(SKEWED[:7], [0, 0]), np.append(np.zeros(8), 1.0)])
    counts = np.stack([np.append(np.ones(7), [0, 0]), np.append(np.zeros(8), 1.0)])
    found = intervals(sums, counts, lambda means: means, np.array([7, 1]))
    reference = stats.ttest_1samp(SKEWED[:7], 0).confidence_interval()
    np.testing.assert_allclose(found[0], [SKEWED[:7].mean(), reference.low, reference.high])
    np.testing.assert_allclose(found[1], [1.0, np.nan, np.nan])


def test_paired_difference_is_of_complete_pairs() -> None:
    """2 and 4: a mean of 3 with an error of 1."""
    found = paired_difference([3.0, math.nan, 5.0], [1.0, 1.0, 1.0], ["a", "b", "c"])
    reach = math.tan(0.475 * math.pi)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((3.0, 3 - reach, 3 + reach, 2))


def test_holm_by_hand() -> None:
    """Of 0.005, 0.01, 0.03, 0.04: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to its forerunner's 0.06."""
    np.testing.assert_allclose(holm([0.01, 0.04, math.nan, 0.03, 0.005]), [0.03, 0.06, math.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])


def test_p_is_scipys_t_test_on_means_of_patients() -> None:
    differences = np.random.default_rng(4).normal(0.4, 1, 24)
    one = pd.DataFrame({"attack": "pgd", "patient_id": np.arange(24) // 2, "difference": differences})
    two = one.assign(attack="gn", difference=-differences - 0.5)
    rows = t_tests(pd.concat([one, two]), ["attack"], "difference").set_index("attack")
    means = differences.reshape(12, 2).mean(axis=1)
    tests = {"pgd": stats.ttest_1samp(means, 0), "gn": stats.ttest_1samp(-means - 0.5, 0)}
    p = {name: test.pvalue for name, test in tests.items()}
    assert rows["p"].to_dict() == pytest.approx(p)
    assert rows["p_holm"].min() == pytest.approx(2 * min(p.values()))
    for name, test in tests.items():
        bounds = test.confidence_interval()
        assert tuple(rows.loc[name, ["low", "high"]]) == pytest.approx((bounds.low, bounds.high))
    assert rows.loc["pgd", ["n", "clusters"]].tolist() == [24, 12]
    assert rows["detectable"].to_dict()["pgd"] == pytest.approx(minimum_detectable_difference(means, range(12)))


def test_the_interval_of_a_test_is_t_however_many_patients() -> None:
    frame = pd.DataFrame({"g": 0, "patient_id": range(30), "v": SKEWED})
    reference = stats.ttest_1samp(SKEWED, 0).confidence_interval()
    assert tuple(t_tests(frame, ["g"], "v").loc[0, ["low", "high"]]) == pytest.approx((reference.low, reference.high))


def test_several_intervals_hold_together_by_bonferroni() -> None:
    frame = pd.DataFrame({"g": list("aaaaab"), "patient_id": range(6), "v": [*SKEWED[:5], math.nan]})
    (found,) = t_intervals(frame, ["g"], "v", comparisons=4).to_dict("records")  # b has no value
    reference = stats.ttest_1samp(SKEWED[:5], 0).confidence_interval(1 - 0.05 / 4)
    assert (found["low"], found["high"]) == pytest.approx((reference.low, reference.high))


def test_nothing_but_zeros_has_no_p_and_is_no_test_of_the_family() -> None:
    frame = pd.DataFrame({"g": list("aaabbb"), "patient_id": list("123123"), "difference": [0.0, 0, 0, 1, 2, 3]})
    rows = t_tests(frame, ["g"], "difference").set_index("g")
    assert rows["p_holm"].isna().to_dict() == {"a": True, "b": False}
    expected = stats.ttest_1samp([1, 2, 3], 0).pvalue
    assert rows.loc["b", ["p", "p_holm"]].tolist() == pytest.approx([expected, expected])


def test_what_rounding_leaves_of_equal_numbers_is_no_difference() -> None:
    frame = pd.DataFrame({"g": 0, "patient_id": range(3), "v": [1e-14, 1e-14, 1e-14]})
    assert not (t_tests(frame, ["g"], "v")["p_holm"] < 0.05).any()


def test_one_patient_has_no_test_and_groups_without_a_value_a_row() -> None:
    frame = pd.DataFrame({"g": list("aab"), "patient_id": list("112"), "v": [1.0, 2.0, math.nan]})
    rows = t_tests(frame, ["g"], "v").set_index("g")
    assert rows[["low", "high", "p", "p_holm", "detectable"]].isna().all(axis=None)
    assert rows[["n", "clusters"]].to_numpy().tolist() == [[2, 1], [0, 0]]
    assert rows.loc["a", "mean"] == 1.5


@pytest.mark.parametrize(("patients", "effect"), [(15, 0.7782), (34, 0.4950), (199, 0.1996)])
def test_the_minimum_detectable_difference_is_that_of_the_noncentral_t(patients: int, effect: float) -> None:
    """Power 0.8 at these sizes: G*Power needs 15, 34 and 199 pairs for effects of 0.8, 0.5 and 0.2."""
    values = stats.zscore(np.arange(patients), ddof=1) * 3
    found = minimum_detectable_difference(values, range(patients)) / 3
    assert found == pytest.approx(effect, abs=2e-4)
    critical, shift = stats.t.ppf(0.975, patients - 1), found * math.sqrt(patients)
    assert stats.nct.sf(critical, patients - 1, shift) == pytest.approx(0.8, abs=1e-4)


def test_the_minimum_detectable_difference_counts_patients_not_cases() -> None:
    values = np.array([1.0, 2.0, 4.0])
    twice = minimum_detectable_difference(np.repeat(values, 2), np.repeat(range(3), 2))
    assert twice == pytest.approx(minimum_detectable_difference(values, range(3)))
    assert math.isnan(minimum_detectable_difference([1.0, 2.0], ["a", "a"]))
    assert math.isnan(minimum_detectable_difference([], []))


def test_spreads_between_cases_and_seeds_by_hand() -> None:
    """Means of cases 2 and 4, of seeds 1.5 and 4.5; the case that only one seed has does not count."""
    between_cases, between_seeds = spreads([1, 3, 2, 6, 99], ["a", "a", "b", "b", "c"], [0, 1, 0, 1, 0])
    assert (between_cases, between_seeds) == pytest.approx((math.sqrt(2), math.sqrt(4.5)))


def test_an_attack_without_seeds_has_no_spread_between_them() -> None:
    between_cases, between_seeds = spreads([1, 3], ["a", "b"], [math.nan, math.nan])
    assert between_cases == pytest.approx(math.sqrt(2))
    assert math.isnan(between_seeds)


def test_spreads_of_groups_are_those_of_each_alone() -> None:
    frame = pd.DataFrame(
        {
            "attack": ["pgd"] * 5 + ["gn"] * 2,
            "case_id": ["a", "a", "b", "b", "c", "a", "b"],
            "seed": [0, 1, 0, 1, 0, np.nan, np.nan],
            "dsc": [1.0, 3, 2, 6, 99, 1, 3],
        }
    )
    rows = group_spreads(frame, ["attack"], "dsc").set_index("attack")
    assert rows.loc["pgd"].tolist() == pytest.approx([math.sqrt(2), math.sqrt(4.5)])
    assert rows.loc["gn"].tolist() == pytest.approx([math.sqrt(2), math.nan], nan_ok=True)
