"""A reduced precision is shown where fp32 gives the same DSC, and the report says what is left out and why."""

import math
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import records, row, stored

from freqbench.analysis.precision import NO_DSC, NOT_RUN, exclude
from freqbench.analysis.tables import summary
from freqbench.reporting.report import report
from freqbench.results import KEY, Store

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
    plain, reduced = row(dsc=0.5, **attack), row(dsc=0.5, **attack, **changed)
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


# Tables and the report


@pytest.fixture
def two() -> Store:
    """PGD agrees with fp32, GN does not, and nobody ran VAFA in fp32."""
    plain = [row(attack, dsc=0.5, dsc_clean=0.9) for attack in ("pgd", "gn")]
    reduced = [row(attack, dsc=dsc, dsc_clean=0.9, **BF16) for attack, dsc in (("pgd", 0.501), ("gn", 0.6))]
    return stored(*plain, *reduced, row("vafa", dsc=0.5, dsc_clean=0.9, **BF16))


SHOWN = ["clean", "gn std=8/255", "pgd eps=8/255", "pgd eps=8/255 precision=bf16"]


def test_weak_rows_leave_tables_and_the_report_names_them(two: Store) -> None:
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
    plain, reduced = row(dsc=0.5), row(dsc=0.5, **BF16)
    text = report([stored(plain, reduced)], {tuple(reduced[name] for name in KEY)}, format="markdown")
    assert "| pgd eps=8/255 precision=bf16 |" in text
    left_out = text.partition("Left out of the tables")[2].partition("##")[0]
    assert left_out.strip() == "- 1 record of another job, or of a former version of this one"
