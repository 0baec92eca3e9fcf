"""Intervals and tests against scipy, closed forms, published tables, coverage; reduced precision beside fp32."""

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from board_pages import rank_correlation
from reporting.handmade import records, row, stored
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from freqbench.analysis import statistics
from freqbench.analysis.precision import NO_DSC, NOT_RUN, exclude
from freqbench.analysis.statistics import DICE, group_spreads, mean_intervals, nested_interval, t_intervals, t_tests
from freqbench.analysis.tables import summary
from freqbench.reporting.report import report
from freqbench.results import KEY

SKEWED = np.random.default_rng(1).gamma(1.5, size=30)
MANY = 40_000  # resamples: the Monte Carlo error of a bound is then about 0.003 here


def rows(values: Any, patients: Any) -> pd.DataFrame:
    return pd.DataFrame({"g": 0, "v": np.asarray(values, float), "patient_id": list(patients)})


def interval(values: Any, patients: Any) -> Any:
    (row,) = mean_intervals(rows(values, patients), ["g"], "v").itertuples()
    return row


def student(values: Any, level: float = 0.95) -> Any:
    """The interval of a mean as scipy has it."""
    return pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval(level)))


def test_the_interval_of_20_patients_is_scipys_bca(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", MANY)
    ours = interval(SKEWED, range(30))
    reference = stats.bootstrap((SKEWED,), np.mean, n_resamples=MANY, method="BCa", rng=5).confidence_interval
    percentile = stats.bootstrap((SKEWED,), np.mean, n_resamples=MANY, method="percentile", rng=5).confidence_interval
    assert ours.method == "bca"
    assert (ours.low, ours.high) == pytest.approx(tuple(reference), abs=0.01)
    assert ours.high - percentile.high > 0.02  # which the percentile interval would miss
    flat = interval([0.3] * 25, range(25))
    assert (flat.low, flat.high) == pytest.approx((0.3, 0.3))


def test_the_interval_of_fewer_patients_is_scipys_t() -> None:
    ours = interval(SKEWED[:19], range(19))
    assert (ours.method, (ours.low, ours.high)) == ("t", student(SKEWED[:19]))


def test_patients_of_unlike_number_of_cases_make_a_ratio() -> None:
    """Sums 0 and 9 of 2 and 1 cases around the mean 3: residuals -6 and 6, so the error is sqrt(2 (36 + 36)) / 3 = 4,
    and t of one degree of freedom is tan(0.475 pi)."""
    (row,) = t_intervals(rows([0.0, 0.0, 9.0], ["a", "a", "b"]), ["g"], "v").itertuples()
    reach = 4 * math.tan(0.475 * math.pi)
    assert (row.mean, row.low, row.high) == pytest.approx((3.0, 3 - reach, 3 + reach))
    assert (row.n, row.clusters) == (3, 2)


@pytest.mark.parametrize("patients", [5, 30])
def test_repeated_cases_and_row_order_keep_the_interval(patients: int) -> None:
    once = interval(SKEWED[:patients], range(patients))
    order = np.random.default_rng(3).permutation(3 * patients)
    thrice = interval(np.repeat(SKEWED[:patients], 3)[order], np.repeat(range(patients), 3)[order])
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.n, thrice.clusters) == (3 * patients, patients)


@pytest.mark.parametrize("patients", [1, 2])
def test_one_or_two_patients_are_too_few_for_interval_in_table(patients: int) -> None:
    frame = rows([30.0, 90.0, 60.0], [*"aba"][:patients] * 3 if patients == 1 else "aba").assign(method="m")
    of_networks = statistics.nested_intervals(frame.assign(target_model="n"), "v").iloc[0]
    for line in (mean_intervals(frame, ["g"], "v").iloc[0], t_tests(frame, ["g"], "v").iloc[0], of_networks):
        assert math.isnan(line["low"])
        assert math.isnan(line["high"])
    assert t_intervals(frame, ["g"], "v")["low"].isna().all() == (patients == 1)
    assert nested_interval(np.array([[0.1, 0.3]]))[:4] == pytest.approx((0.2, *[math.nan] * 3), nan_ok=True)


@pytest.mark.parametrize("values", [(90.0, 95.0, 99.0), (0.0, 0.0, 40.0), (2.0, 50.0, 98.0, 99.0), (100.0,) * 3])
def test_the_interval_of_a_mean_dice_stays_between_0_and_100(values: tuple[float, ...]) -> None:
    (row,) = mean_intervals(rows(values, range(len(values))), ["g"], "v", DICE).itertuples()
    assert 0 <= row.low <= row.mean <= row.high <= 100
    assert (row.low < row.mean < row.high) == (len(set(values)) > 1)


def test_interval_within_limits_is_students_t_on_logit_scale() -> None:
    values = [70.0, 85.0, 95.0]  # mean 250/3, so u = 5/6 and u (1 - u) = 5/36
    (row,) = mean_intervals(rows(values, range(3)), ["g"], "v", DICE).itertuples()
    ends = stats.t.interval(0.95, 2, loc=math.log(5), scale=stats.sem(values) / 100 * 36 / 5)
    assert (row.low, row.high) == pytest.approx(tuple(100 / (1 + math.exp(-end)) for end in ends))


def test_interval_of_a_difference_ends_at_100_points() -> None:
    frame = rows([99.0, 60.0, 95.0], range(3))
    test = t_tests(frame, ["g"], "v").iloc[0]
    bounds = student(frame["v"]).expected
    assert bounds[1] > 100
    assert (test["low"], test["high"]) == pytest.approx((bounds[0], 100))
    assert (test["p"] < 0.05) == (bounds[0] > 0)


def test_one_patient_has_a_mean_and_no_interval() -> None:
    one = interval([1.0, math.nan, 3.0], ["a", "b", "a"])
    assert (one.mean, one.n, one.clusters, one.method) == (2.0, 2, 1, "")
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = interval([math.nan], ["a"])
    assert (none.n, math.isnan(none.mean)) == (0, True)


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
    together = mean_intervals(frame, ["attack", "budget"], "dsc")
    assert len(together) == 4
    for line in together.itertuples():
        own = frame[(frame["attack"] == line.attack) & (frame["budget"].fillna(0) == np.nan_to_num(line.budget))]
        alone = interval(own["dsc"], own["patient_id"])
        assert (line.mean, line.low, line.high) == pytest.approx((alone.mean, alone.low, alone.high))
        assert (line.n, line.clusters, line.method) == (alone.n, alone.clusters, alone.method)


@pytest.mark.parametrize("patients", [6, 30])
def test_a_statistic_of_two_means_is_over_the_same_patients(patients: int) -> None:
    """b = 2 a in every patient: the ratio is 2 in every draw, though either mean varies much."""
    sums = np.stack([SKEWED[:patients], 2 * SKEWED[:patients]])
    ours = statistics.statistic_intervals(sums, np.ones_like(sums), lambda x: x[1:] / x[:1], np.array([patients]))
    np.testing.assert_allclose(ours, [[2.0, 2.0, 2.0]])


def test_statistic_of_few_patients_has_t_by_the_jackknife() -> None:
    """The first mean has values of 7 of 9 patients, the second of one, which is too few."""
    sums = np.stack([np.append(SKEWED[:7], [0, 0]), np.append(np.zeros(8), 1.0)])
    counts = np.stack([np.append(np.ones(7), [0, 0]), np.append(np.zeros(8), 1.0)])
    ours = statistics.statistic_intervals(sums, counts, lambda means: means, np.array([7, 1]))
    assert (ours[0, 0], tuple(ours[0, 1:])) == (pytest.approx(SKEWED[:7].mean()), student(SKEWED[:7]))
    np.testing.assert_allclose(ours[1], [1.0, np.nan, np.nan])


def test_holm_equals_values_by_hand() -> None:
    """0.005, 0.01, 0.03, 0.04 become 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to its forerunner's 0.06."""
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, math.nan, 0.03, 0.005]), [0.03, 0.06, math.nan, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([0.6, 0.7]), [1.0, 1.0])


def test_p_is_scipys_t_test_on_means_of_patients() -> None:
    differences = np.random.default_rng(4).normal(0.4, 1, 60)
    one = rows(differences, np.arange(60) // 2).assign(g="pgd")
    tests = t_tests(pd.concat([one, one.assign(g="gn", v=-differences - 0.5)]), ["g"], "v").set_index("g")
    means = differences.reshape(30, 2).mean(axis=1)
    values = {"pgd": means, "gn": -means - 0.5}
    p = {name: stats.ttest_1samp(own, 0).pvalue for name, own in values.items()}
    assert (tests["p"].to_dict(), tests["p_holm"].min()) == (pytest.approx(p), pytest.approx(2 * min(p.values())))
    for name, own in values.items():  # t however many patients
        assert tuple(tests.loc[name, ["low", "high"]]) == student(own)
    assert tests.loc["pgd", ["n", "clusters"]].tolist() == [60, 30]


def test_several_intervals_hold_together_by_bonferroni() -> None:
    frame = pd.DataFrame({"g": list("aaaaab"), "patient_id": range(6), "v": [*SKEWED[:5], math.nan]})
    (row,) = t_intervals(frame, ["g"], "v", comparisons=4).to_dict("records")  # b has no value
    assert (row["low"], row["high"]) == student(SKEWED[:5], 1 - 0.05 / 4)


def test_zeros_rounding_and_single_patients_join_no_family() -> None:
    values: dict[str, Any] = {"zero": [0.0, 0, 0], "rounding": [1e-14, 2e-14, 1e-14], "some": [1, 2, 3]}
    values["one"] = [1.0, math.nan, math.nan]
    tests = t_tests(pd.concat([rows(v, "123").assign(g=name) for name, v in values.items()]), ["g"], "v").set_index("g")
    expected = stats.ttest_1samp([1, 2, 3], 0).pvalue
    assert math.isnan(tests.loc["zero", "p_holm"])
    assert (tests.loc["rounding", "p_holm"], tests.loc["some", "p"]) == (1, pytest.approx(expected))
    assert tests.loc["some", "p_holm"] == pytest.approx(2 * expected)  # rounding has p = 1
    assert tests.loc["one", ["low", "high", "p", "p_holm", "detectable"]].isna().all()
    assert tests.loc["one", ["mean", "n", "clusters"]].tolist() == [1.0, 1, 1]


@pytest.mark.parametrize(("patients", "effect"), [(15, 0.7782), (199, 0.1996)])
def test_the_detectable_difference_is_that_of_the_noncentral_t(patients: int, effect: float) -> None:
    """G*Power needs 15 and 199 pairs for effects of 0.8 and 0.2 at a power of 0.8."""
    frame = rows(np.repeat(stats.zscore(np.arange(patients), ddof=1) * 3, 2), np.repeat(range(patients), 2))
    detectable = t_tests(frame, ["g"], "v")["detectable"].iloc[0] / 3
    assert detectable == pytest.approx(effect, abs=2e-4)
    critical = stats.t.ppf(0.975, patients - 1)
    shift = detectable * math.sqrt(patients)
    assert stats.nct.sf(critical, patients - 1, shift) == pytest.approx(0.8, abs=1e-4)


def test_spreads_between_cases_and_seeds_by_hand() -> None:
    """Means of cases 2 and 4, of seeds 1.5 and 4.5; the case that only one seed has does not count."""
    frame = pd.DataFrame(
        {
            "attack": ["pgd"] * 5 + ["gn"] * 2,
            "case_id": ["a", "a", "b", "b", "c", "a", "b"],
            "seed": [0, 1, 0, 1, 0, np.nan, np.nan],
            "dsc": [1.0, 3, 2, 6, 99, 1, 3],
        }
    )
    spreads = group_spreads(frame, ["attack"], "dsc").set_index("attack")
    assert spreads.loc["pgd"].tolist() == pytest.approx([math.sqrt(2), math.sqrt(4.5)])
    assert spreads.loc["gn"].tolist() == pytest.approx([math.sqrt(2), math.nan], nan_ok=True)


BY_HAND = np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 2.0]])
FIRST = np.array([0.9, 0.8, 0.5, 0.7])
SECOND = np.array([0.4, 0.7, 0.3, 0.1])
PATIENTS = np.array([[0.0], [3.0], [7.0]])


def test_the_nested_interval_equals_one_by_hand() -> None:
    """Means of the patients 1.5, 4, 2 (variance 7/4), of the networks 2 and 3; residuals of the first network 0,
    -1/2, 1/2 and of the second their negatives. So MS between networks is 3 (1/2 + ...) = 3/2 and of residuals 1/2:
    the variance of the mean is 7/12 + (3/2 - 1/2) / 6 = 3/4, with (3/4)^2 / ((7/12)^2 / 2 + (1/4)^2 / 1 + (1/12)^2 / 2)
    = 81/34 degrees of freedom."""
    nested = nested_interval(BY_HAND)
    reach = stats.t.ppf(0.975, 81 / 34) * 0.75**0.5
    assert (nested.mean, nested.df, nested.networks, nested.patients) == (2.5, pytest.approx(81 / 34), 2, 3)
    assert (nested.low, nested.high) == pytest.approx((2.5 - reach, 2.5 + reach))
    assert nested.p == pytest.approx(2 * stats.t.sf(2.5 / 0.75**0.5, 81 / 34))


@pytest.mark.parametrize(
    ("values", "minus", "test"),
    [
        (np.stack([FIRST, FIRST, FIRST], axis=1), None, stats.ttest_1samp(FIRST, 0)),
        (np.stack([FIRST, FIRST, FIRST]), None, stats.ttest_1samp(FIRST, 0)),
        (FIRST[:, None], SECOND[:, None], stats.ttest_rel(FIRST, SECOND)),
        (FIRST[:2, None], None, stats.ttest_1samp(FIRST[:2], 0)),
        (PATIENTS + FIRST[:3], PATIENTS + SECOND, stats.ttest_ind(FIRST[:3], SECOND, equal_var=False)),
    ],
    ids=["networks agree", "patients agree", "one network each: paired", "two patients", "like patients: Welch"],
)
def test_a_nested_interval_with_one_spread_is_a_known_t_test(values: Any, minus: Any, test: Any) -> None:
    nested = nested_interval(values, minus)
    theirs = test.confidence_interval()
    assert (nested.low, nested.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize(
    ("spread", "networks", "least", "most"),
    [((1, 0, 0.3), 3, 0.91, 0.985), ((0.5, 1, 0.5), 3, 0.91, 0.985), ((1, 1, 0), 1, 0.0, 0.6)],
    ids=["patients", "networks", "one network"],
)
def test_nested_interval_covers(spread: tuple[float, float, float], networks: int, least: float, most: float) -> None:
    """The share of 600 draws has a standard error of 0.9 points; one network's interval is for it alone."""
    rng = np.random.default_rng(0)
    between, within, residual = spread
    tables = (
        between * rng.standard_normal((600, 12, 1))
        + within * rng.standard_normal((600, 1, networks))
        + residual * rng.standard_normal((600, 12, networks))
    )
    intervals = [nested_interval(table) for table in tables]
    assert least <= np.mean([each.low <= 0 <= each.high for each in intervals]) <= most


def test_methods_are_rows_with_patients_of_all_networks() -> None:
    """The table by hand as method `a`, each patient of two cases around it, and method `b` of one network."""
    made = [
        {"method": "a", "target_model": f"a{network}", "patient_id": f"p{patient}", "dsc": dsc + shift}
        for ((patient, network), dsc), shift in product(np.ndenumerate(BY_HAND), (-0.1, 0.1))
    ]
    made += [{"method": "b", "target_model": "b", "patient_id": f"p{p}", "dsc": 0.5 * p} for p in range(3)]
    made.append({"method": "a", "target_model": "a0", "patient_id": "lacks a1 and b", "dsc": 9.0})
    frame = pd.DataFrame(made).astype(dict.fromkeys(("method", "target_model", "patient_id"), "category"))
    names = ["mean", "df"]
    methods = statistics.nested_intervals(frame, "dsc").set_index("method")
    expected = nested_interval(BY_HAND)
    assert (methods.loc["a", "networks"], methods.loc["a", "patients"], methods.loc["b", "networks"]) == (2, 3, 1)
    assert tuple(methods.loc["a", names]) == pytest.approx((expected.mean, expected.df))
    away = (expected.mean - expected.low) / 100 / (0.025 * 0.975)  # of the logit of 0.025
    ends = [100 * special.expit(special.logit(0.025) + sign * away) for sign in (-1, 1)]
    assert methods.loc["a", ["low", "high"]].tolist() == pytest.approx(ends)
    behind = statistics.nested_intervals(frame, "dsc", behind="a").set_index("method")
    names = ["mean", "low", "high", "df"]
    assert tuple(behind.loc["b", names]) == pytest.approx(nested_interval(BY_HAND, np.array([[0.0], [0.5], [1.0]]))[:4])
    assert pd.isna(behind.loc["a", "mean"])


def test_orders_on_two_patient_sets_compare_by_kendalls_tau() -> None:
    random = np.random.default_rng(3)
    levels = np.array([0.0, 10.0, 20.0, 30.0, 40.0])
    one, other = (levels[:, None] + random.normal(size=(5, patients)) for patients in (20, 10))
    assert (rank_correlation(one, other).tolist(), rank_correlation(one, other[::-1])[0]) == ([1, 1, 1], -1)
    near = np.array([0.0, 20.0, 10.0, 30.0, 30.3])[:, None] + random.normal(size=(5, 10))
    tau, low, high = rank_correlation(one, near)
    assert tau == pytest.approx(stats.kendalltau(one.mean(1), near.mean(1)).statistic)
    assert -1 <= low <= tau <= high <= 1
    assert low < high, "the last two are open"
    tied = np.repeat(levels[[0, 0, 2, 3, 4]][:, None], 10, axis=1)
    assert rank_correlation(one, tied)[0] == pytest.approx(stats.kendalltau(one.mean(1), tied.mean(1)).statistic)


BF16 = {"precision": "bf16"}


def reasons(frame: pd.DataFrame, reference: pd.DataFrame | None = None) -> list[str]:
    """Reasons of the rows in a reduced precision; those in fp32 have none."""
    rows = exclude(frame, reference)
    is_reduced = (rows["precision"] != "fp32") | rows["compile"]
    assert set(rows.loc[~is_reduced, "left_out"]) <= {""}
    return rows.loc[is_reduced, "left_out"].tolist()


@pytest.mark.parametrize("changed", [{"precision": "bf16"}, {"precision": "tf32"}, {"compile": True}])
@pytest.mark.parametrize("attack", [{}, {"attack": "dfb", "seed": None, "variant": None}], ids=["seed", "no seed"])
def test_row_is_shown_at_dsc_of_fp32_and_left_out_without_fp32(changed: dict[str, Any], attack: dict[str, Any]) -> None:
    plain = row(dsc=0.5, **attack)
    reduced = row(dsc=0.5, **attack, **changed)
    assert (reasons(records(plain, reduced)), reasons(records(reduced))) == ([""], [NOT_RUN])
    assert reasons(records(reduced), records(plain)) == [""]  # of the reference


@pytest.mark.parametrize(("dsc", "apart"), [(0.502, ""), (0.498, ""), (0.5035, "0.35"), (0.4965, "0.35")])
def test_two_tenths_of_a_point_up_or_down_are_near_enough(dsc: float, apart: str) -> None:
    expected = f"{apart} DSC points from fp32, more than 0.2" if apart else ""
    assert reasons(records(row(dsc=0.5), row(dsc=dsc, **BF16))) == [expected]


@pytest.mark.parametrize("varied", ["case", "seed"])
def test_means_are_compared_over_cases_and_seeds_that_both_have(varied: str) -> None:
    """One is 1 point above fp32 and one 0.9 below: 0.05 points apart in the mean."""
    plain = [row(**{varied: number}, dsc=dsc) for number, dsc in enumerate((0.5, 0.5, 0.9))]
    reduced = [row(**{varied: number}, dsc=dsc, **BF16) for number, dsc in ((0, 0.51), (1, 0.491), (3, 0.1))]
    assert reasons(records(*plain, *reduced)) == [""] * 3


@pytest.mark.parametrize(
    "changed",
    [
        *({"case_key": "of-other-files"}, {"seed": 1}, {"params": {"steps": 10}}, {"variant": "paper"}),
        *({"attack": "gn"}, {"dataset": "other"}, {"source": "unetr"}, {"target": "unetr"}, {"compile": True}),
    ],
)
def test_row_that_differs_in_more_than_precision_checks_nothing(changed: dict[str, Any]) -> None:
    assert exclude(records(row(dsc=0.5, **BF16), row(**{"dsc": 0.5} | changed)))["left_out"].tolist()[0] == NOT_RUN


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_failure_is_nothing_to_compare_with(is_plain: bool) -> None:
    failed: dict[str, Any] = {"status": "failed", "error": "e", "dsc": math.nan}
    plain, other = ({"dsc": 0.5}, failed) if not is_plain else (failed, {"dsc": 0.5})
    assert reasons(records(row(**plain), row(**other, **BF16))) == [NO_DSC]


def test_each_pair_of_models_is_checked_on_its_own() -> None:
    targets = {"unet": 0.5, "unetr": 0.6}
    plain = [row(target=target, dsc=0.5) for target in targets]
    frame = records(*plain, *(row(target=target, dsc=dsc, **BF16) for target, dsc in targets.items()))
    assert reasons(frame) == ["", "10.00 DSC points from fp32, more than 0.2"]


def test_former_versions_of_a_case_are_not_compared() -> None:
    old = {"cell_id": "old", "minute": -1, "case_key": "former"}
    former = [row(dsc=0.9, **old), row(dsc=0.1, **old | BF16)]
    assert reasons(records(*former, row(dsc=0.5), row(dsc=0.5, **BF16))) == ["", ""]


SHOWN = ["clean", "gn std=8/255", "pgd eps=8/255", "pgd eps=8/255 precision=bf16"]


def test_weak_rows_leave_tables_and_the_report_names_them() -> None:
    """PGD agrees with fp32, GN does not, and nobody ran VAFA in fp32."""
    plain = [row(attack, dsc=0.5, dsc_clean=0.9) for attack in ("pgd", "gn")]
    reduced = [row(attack, dsc=dsc, dsc_clean=0.9, **BF16) for attack, dsc in (("pgd", 0.501), ("gn", 0.6))]
    two = stored(*plain, *reduced, row("vafa", dsc=0.5, dsc_clean=0.9, **BF16))
    assert summary(two.records().to_pandas())["attack"].tolist() == SHOWN
    lines = " ".join(report([two], format="markdown").split())
    assert "phantom: gn std=8/255 precision=bf16 on unet: 10.00 DSC points from fp32, more than 0.2 - phantom" in lines
    assert f"phantom: vafa q_max=20 precision=bf16 on unet: {NOT_RUN}" in lines


def test_many_rows_left_out_are_counted() -> None:
    text = report([stored(*(row("vafa", budget=float(budget), dsc=0.5, **BF16) for budget in range(1, 16)))])
    assert text.count("precision=bf16 on unet") == 10
    assert "and 5 more rows" in text


def test_report_without_rows_names_the_target() -> None:
    text = " ".join(report([stored(row(target="unetr", dsc=0.5, **BF16))]).split())
    assert "on unet, transferred to unetr: not run" in text
    assert "threat" not in text.split("How to read this")[0]


def test_fp32_of_a_former_job_is_enough() -> None:
    plain = row(dsc=0.5)
    reduced = row(dsc=0.5, **BF16)
    text = report([stored(plain, reduced)], {tuple(reduced[name] for name in KEY)}, format="markdown")
    assert "| pgd eps=8/255 precision=bf16 |" in text
    left_out = text.partition("Left out of the tables")[2].partition("##")[0]
    assert left_out.strip() == "- 1 record of another job, or of a former version of this one"


def test_area_under_curve_is_sklearns_its_error_delongs() -> None:
    """The interval of paired volumes by placement values, which DeLong has, on the logit scale; ties count half."""
    draws = np.random.default_rng(3)
    attacked = np.round(draws.normal(0.8, 1, 12), 1)
    other = np.round(draws.normal(0, 1, 12), 1)
    mean, low, high = statistics.auroc(attacked, other)
    assert mean == pytest.approx(100 * roc_auc_score([1] * 12 + [0] * 12, [*attacked, *other]))
    placed = [[np.mean((x > other) + (x == other) / 2) for x in attacked]]
    placed.append([np.mean((attacked > x) + (attacked == x) / 2) for x in other])
    error = 100 * np.sqrt(np.cov(placed).sum() / 12)  # of the mean of sums over patients
    expected = statistics.inside(DICE, np.array([mean]), stats.t.ppf(0.975, 11) * np.array([error]))
    assert (low, high) == pytest.approx((expected[0][0], expected[1][0]))


def test_area_of_volumes_all_told_apart_has_an_exact_bound() -> None:
    """The chance p of each of 20 patients to be told apart has p**20 = 0.025 at the bound."""
    above = np.arange(20.0) + 100
    below = np.arange(20.0)
    mean, low, high = statistics.auroc(above, below)
    assert (mean, high) == (100, 100)
    assert (low / 100) ** 20 == pytest.approx(0.025)
    assert statistics.auroc(below, above) == pytest.approx((0, 0, 100 - low))
    assert np.isnan(statistics.auroc(above[:2], below[:2])[1:]).all()
