"""What figures show, against values by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from reporting.handmade import classes, records, row
from scipy import stats

from freqbench.reporting import figure_data
from freqbench.reporting.figure_data import Material, shown_rows


def test_rows_are_in_the_units_shown() -> None:
    failed = row(case=1, status="failed", error="died")
    scores = {"dsc_foreground": 0.5, "dsc_foreground_clean": 0.75, "dsc": 0.6, "dsc_clean": 0.8, "ssim_body": 0.9}
    ok = row(**scores, num_forwards=3, num_backwards=2)
    shown, vafa = shown_rows(records(ok, failed, row("vafa"))).to_dict("records")
    assert (shown["label"], shown["family"], shown["is_white_box"]) == ("pgd eps=8/255", "pgd", True)
    names = ("dsc_foreground", "dsc_foreground_clean", "dsc", "dsc_clean", "drop", "ssim_body", "budget", "passes")
    assert [shown[name] for name in names] == pytest.approx([50, 75, 60, 80, 25, 90, 8, 5])
    assert (vafa["family"], vafa["budget"]) == ("vafa", 20)  # no intensity


def test_places_are_by_threat_model_attack_and_budget() -> None:
    rows = shown_rows(records(row(), row(budget=2 / 255), row("vafa"), row("gn")))
    ordered = ["vafa q_max=20", "gn std=8/255", "pgd eps=2/255", "pgd eps=8/255"]
    assert list(figure_data.places(rows, "label")) == ordered
    styles = Material(rows, pd.DataFrame(), None).styles
    assert styles["pgd eps=2/255"].color == styles["pgd eps=8/255"].color != styles["gn std=8/255"].color
    assert len({style.marker for style in styles.values()}) == 4


def test_budget_curves_have_means_intervals_and_cases() -> None:
    """Two cases that are always equal have an interval of no width; one budget alone is no curve."""
    rows = [row(case=case, budget=eps / 255, dsc=0.8 - eps / 100) for case in (0, 1) for eps in (4, 8)]
    table = figure_data.budget_curves(shown_rows(records(*rows, row("vafa", dsc=0.5))))
    assert list(table["family"]) == ["pgd", "pgd"]
    assert table[["budget", "mean", "low", "high", "n"]].to_numpy(float) == pytest.approx(
        np.array([[4, 76, 76, 76, 2], [8, 72, 72, 72, 2]])
    )


def test_an_interval_counts_cases_and_leaves_undefined_values_out() -> None:
    rows = [row(case=0, seed=seed, seam_energy=2.0) for seed in (0, 1)]
    rows += [row(case=1, seam_energy=5.0), row(case=2, seam_energy=None), row("gn", seam_energy=None)]
    (found,) = figure_data.intervals(shown_rows(records(*rows)), ["label"], "seam_energy").to_dict("records")
    assert (found["label"], found["mean"], found["n"], found["clusters"]) == ("pgd eps=8/255", 3, 2, 2)


def test_factors_are_what_differs_in_one_parameter_from_the_setting_that_most_differ_from_so() -> None:
    """Null rows and a setting that differs in two are aside; numbers by size, other values after them."""

    def setting(dsc: float, q_max: float = 20, **changed: Any) -> dict[str, Any]:
        params = {"block": 16, "keep": None, "control": "none"}
        return row("vafa", params | changed, budget=q_max, dsc=dsc, dsc_clean=0.9)

    rows = [setting(0.8), setting(0.6, q_max=30), setting(0.85, q_max=10), setting(0.7, block=8)]
    rows += [setting(0.5, keep=False), setting(0.4, keep="best"), setting(0.2, block=8, q_max=30)]
    rows += [setting(0.9, control="random"), *(row(budget=eps / 255, dsc=0.5) for eps in (2, 4))]
    table = figure_data.factors(shown_rows(records(*rows)))
    found = list(table[["factor", "value", "is_common", "mean"]].itertuples(index=False, name=None))
    assert found == [
        ("block", "8", False, pytest.approx(20)),
        ("block", "16", True, pytest.approx(10)),
        ("keep", "false", False, pytest.approx(40)),
        ("keep", '"best"', False, pytest.approx(50)),
        ("keep", "null", True, pytest.approx(10)),
        ("q_max", "10", False, pytest.approx(5)),
        ("q_max", "20", True, pytest.approx(10)),
        ("q_max", "30", False, pytest.approx(30)),
    ]
    assert set(table["attack"]) == {"vafa"}  # of pgd one parameter alone changes


def test_transfers_are_mean_drops_and_keep_what_was_not_scored_empty() -> None:
    def pair(source: str, target: str, dsc: float, attack: str = "pgd") -> dict[str, Any]:
        return row(attack, source=source, target=target, dsc=dsc, dsc_clean=0.9)

    rows = records(pair("a", "a", 0.2), pair("a", "b", 0.7), pair("b", "b", 0.5), pair("a", "a", 0.3, "gn"))
    found = figure_data.transfers(shown_rows(rows))
    assert list(found) == ["pgd eps=8/255"]  # the other has no target but its source
    matrix = found["pgd eps=8/255"]
    assert (list(matrix.index), list(matrix.columns)) == (["a", "b"], ["a", "b"])
    np.testing.assert_allclose(matrix.to_numpy(), [[70, 20], [np.nan, 40]])


def test_organs_leave_the_background_and_undefined_classes_out() -> None:
    rows = [row(case=case) for case in (0, 1)]
    values = {0: [(0.9, 1.0), (0.5, 0.9), (0.4, 0.6)], 1: [(0.9, 1.0), (0.3, 0.9), (float("nan"), float("nan"))]}
    frame = classes(
        *((rows[case], dict(zip(("air", "liver", "spleen"), values[case], strict=True))) for case in values)
    )
    matrix, cases = figure_data.organs(shown_rows(records(*rows)), frame)
    assert list(matrix.columns) == [(1, "liver"), (2, "spleen")]
    np.testing.assert_allclose(matrix.to_numpy(), [[50, 20]])
    assert list(cases) == [2, 1]


def test_pairs_are_cases_by_their_clean_score() -> None:
    rows = [row(case=0, seed=seed, dsc=dsc, dsc_clean=0.9) for seed, dsc in ((0, 0.2), (1, 0.4))]
    found = figure_data.pairs(shown_rows(records(*rows, row(case=1, dsc=0.1, dsc_clean=0.8))))
    assert list(found["case_key"]) == ["case1", "case0"]
    np.testing.assert_allclose(found[["clean", "attacked"]], [[80, 10], [90, 30]])


def test_means_come_in_the_order_of_places() -> None:
    rows = records(row(case=0, attack_seconds=2.0), row(case=1, attack_seconds=4.0), row("vafa", attack_seconds=9.0))
    table = figure_data.means(shown_rows(rows), ["attack_seconds"])
    expected = [["vafa q_max=20", 9, 1], ["pgd eps=8/255", 3, 2]]
    assert table[["label", "attack_seconds", "n"]].to_numpy().tolist() == expected


CLEAN = {"dsc_foreground_clean": 0.9}


def test_the_drop_is_of_the_foreground_with_student_s_interval_over_patients() -> None:
    left, sizes = (0.8, 0.6, 0.7), (4.0, 6.0, 8.0)
    rows = [
        row(case=case, dsc=0.1, dsc_clean=0.9, dsc_foreground=dsc, l2_body=size, **CLEAN)
        for case, (dsc, size) in enumerate(zip(left, sizes, strict=True))
    ]
    (found,) = figure_data.drops_by_distance(shown_rows(records(*rows))).to_dict("records")
    expected = stats.ttest_1samp([10, 30, 20], 0).confidence_interval(0.95)
    assert [found[name] for name in ("l2_body", "drop", "low", "high", "n")] == pytest.approx([6, 20, *expected, 3])


def test_null_rows_are_told_apart_and_what_was_not_measured_is_left_out() -> None:
    measured = {"dsc_foreground": 0.5, "l2_body": 8.0, **CLEAN}
    rows = [row("vafa", {"control": control}, **measured) for control in ("none", "uniform", "random")]
    rows += [row("pgd", dsc_foreground=0.5, **CLEAN), row("gn", l2_body=8.0, **CLEAN)]
    found = figure_data.drops_by_distance(shown_rows(records(*rows))).set_index("label")["is_null"].to_dict()
    assert found == {
        "vafa q_max=20": False,
        "vafa q_max=20 control=uniform": True,
        "vafa q_max=20 control=random": True,
    }
