"""Intervals and tests against scipy, closed forms and published tables."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from freqbench.reporting.resampling import bootstrap
from freqbench.reporting.statistics import (
    group_spreads,
    holm,
    mean_interval,
    mean_intervals,
    minimum_detectable_difference,
    paired_difference,
    spreads,
    wilcoxon_holm,
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


def test_below_20_clusters_the_interval_is_scipys_percentile() -> None:
    found = mean_interval(SKEWED[:9], range(9), level=0.9, resamples=MANY)
    reference = stats.bootstrap(
        (SKEWED[:9],), np.mean, n_resamples=MANY, method="percentile", confidence_level=0.9, rng=5
    ).confidence_interval
    assert found.method == "percentile"
    assert (found.low, found.high) == pytest.approx(tuple(reference), abs=0.02)


def test_two_clusters_have_the_bounds_that_all_draws_give() -> None:
    """Draws of {0, 0 | 9}: both first 1/4, mixed 1/2, both second 1/4, so the bounds are 0 and 9 and the mean is 3."""
    found = mean_interval([0.0, 0.0, 9.0], ["a", "a", "b"])
    assert (found.mean, found.low, found.high, found.n, found.clusters) == (3.0, 0.0, 9.0, 3, 2)


def test_repeating_the_cases_of_a_patient_narrows_nothing() -> None:
    once = mean_interval(SKEWED, range(30))
    thrice = mean_interval(np.repeat(SKEWED, 3), np.repeat(range(30), 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.n, thrice.clusters) == (90, 30)


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


def test_a_statistic_of_two_means_is_drawn_over_the_same_patients() -> None:
    """b = 2 a in every patient: the ratio is 2 in every draw, though either mean varies much."""
    sums = np.stack([SKEWED, 2 * SKEWED])
    found = bootstrap(sums, np.ones_like(sums), lambda means: means[1:] / means[:1])
    np.testing.assert_allclose(found, [[2.0, 2.0, 2.0]])


def test_paired_difference_is_of_complete_pairs() -> None:
    found = paired_difference([3.0, math.nan, 5.0], [1.0, 1.0, 1.0], ["a", "b", "c"])
    assert (found.mean, found.low, found.high, found.n) == (3.0, 2.0, 4.0, 2)


def test_holm_by_hand() -> None:
    """Of 0.005, 0.01, 0.03, 0.04: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to its forerunner's 0.06."""
    np.testing.assert_allclose(holm([0.01, 0.04, math.nan, 0.03, 0.005]), [0.03, 0.06, math.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])


def test_wilcoxon_is_scipys_on_means_of_patients() -> None:
    differences = np.random.default_rng(4).normal(0.4, 1, 24)
    one = pd.DataFrame({"attack": "pgd", "patient_id": np.arange(24) // 2, "difference": differences})
    two = one.assign(attack="gn", difference=-differences - 0.5)
    rows = wilcoxon_holm(pd.concat([one, two]), ["attack"]).set_index("attack")
    means = differences.reshape(12, 2).mean(axis=1)
    expected = {"pgd": stats.wilcoxon(means).pvalue, "gn": stats.wilcoxon(-means - 0.5).pvalue}
    assert rows["p"].to_dict() == pytest.approx(expected)
    assert rows["p_holm"].min() == pytest.approx(2 * min(expected.values()))
    assert rows.loc["pgd", ["pairs", "clusters"]].tolist() == [24, 12]
    assert rows["detectable"].to_dict()["pgd"] == pytest.approx(minimum_detectable_difference(means, range(12)))


def test_nothing_to_rank_has_no_p_and_is_no_test_of_the_family() -> None:
    frame = pd.DataFrame({"g": list("aaabbb"), "patient_id": list("123123"), "difference": [0.0, 0, 0, 1, 2, 3]})
    rows = wilcoxon_holm(frame, ["g"]).set_index("g")
    assert rows["p_holm"].isna().to_dict() == {"a": True, "b": False}
    assert rows.loc["b", ["p", "p_holm"]].tolist() == [0.25, 0.25]  # 2 of the 8 signs are as extreme


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
