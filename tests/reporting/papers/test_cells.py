"""Which records a cell is made of, and what it says where there are none, too few or too many."""

import math
from typing import Any

import pytest
from reporting.handmade import shown
from reporting.papers import planted
from reporting.papers.planted import cells, cells_of, one

from freqbench.reporting.papers import recipes

NO_WEIGHTS = '{"lpips_similarity": "no weights"}'


FAILED = {
    "status": "failed",
    "error": "out of\nmemory; twice",
    "dsc": None,
    "dsc_clean": None,
    "lpips_similarity": None,
}


def test_failed_cases_are_counted_with_the_first_reason() -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        is_failed = row["attack"] == "pgd" and row["case_id"] in ("case0", "case1", "case2")
        return row | FAILED if is_failed else row

    cell = one(cells_of("vafa_table1", change), attack="PGD", metric="dsc")
    assert (cell["cases"], cell["failed"]) == (9, 3)
    assert cell["reason"].startswith("3 failed: out of memory; twice; ")
    assert "9 cases, not 12" in cell["reason"]
    assert cell["ours"] == pytest.approx(62.67 + sum((i - 5.5) / 4 for i in range(3, 12)) / 9)


def test_cases_of_a_part_stand_in_the_row_of_its_dataset() -> None:
    """PGD on the first three cases alone, under another name."""

    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["attack"] != "pgd":
            return row
        return row | {"dataset": "few"} if row["case_id"] in ("case0", "case1", "case2") else None

    frame = shown(*planted.records("vafa_table1", change))
    recipe = recipes.load("vafa_table1")
    whole = recipe.datasets[0].model_copy(update={"parts": ("few",)})
    cell = one(cells(recipe.model_copy(update={"datasets": (whole,)}), frame), attack="PGD", metric="dsc")
    assert cell["ours"] == pytest.approx(62.67 + sum((i - 5.5) / 4 for i in range(3)) / 3)
    assert (cell["cases"], "3 cases, not 12" in cell["reason"]) == (3, True)
    assert one(cells(recipe, frame), attack="PGD", metric="dsc")["reason"] == "never run"


@pytest.mark.parametrize(
    ("values", "metric", "reason"),
    [
        (None, "dsc", "never run"),
        (FAILED, "dsc", "12 failed: out of memory; twice"),
        ({"precision": "bf16"}, "dsc", "left out: not run in fp32"),
        ({"lpips_similarity": None, "metrics": "dsc"}, "lpips_similarity", "lpips was not among the job's metrics"),
        ({"lpips_similarity": None, "null_reasons": NO_WEIGHTS}, "lpips_similarity", "not computed: no weights"),
    ],
)
def test_a_cell_without_a_number_is_no_zero_and_says_why(
    values: dict[str, Any] | None, metric: str, reason: str
) -> None:
    data = cells_of("vafa_table1", lambda row: (values and row | values) if row["attack"] == "pgd" else row)
    cell = one(data, attack="PGD", metric=metric)
    assert math.isnan(cell["ours"])
    assert (cell["verdict"], cell["reason"][: len(reason)]) == ("", reason)


def test_undefined_distances_drop_out_and_are_counted() -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        value = {"case0": math.nan, "case1": math.inf}.get(row["case_id"], 20.0 if row["case_id"] == "case2" else 10.0)
        return row | {"hd95": value}

    cell = one(cells_of("vafa_table5", change), model="UNETR", attack="PGD", params="eps=4", metric="hd95")
    assert cell["ours"] == pytest.approx((20 + 9 * 10) / 10)
    assert (cell["cases"], cell["undefined"]) == (12, 2)


def test_seeds_have_a_spread_and_each_case_counts_with_all_of_them() -> None:
    """Two seeds whose means lie 1 point apart: their standard deviation is 1 / sqrt(2)."""
    rows = planted.records("vafa_table1")
    second = [
        row | {"seed": 1, "cell_id": row["cell_id"] + "x", "dsc": row["dsc"] + 0.01}
        for row in rows
        if row["attack"] == "gn"
    ]
    cell = one(cells("vafa_table1", shown(*rows, *second)), attack="GN", metric="dsc")
    assert cell["ours"] == pytest.approx(74.19 + 0.5)
    assert (cell["cases"], cell["seeds"], cell["seed_spread"]) == (12, 2, pytest.approx(math.sqrt(0.5)))


def test_transferred_volumes_are_not_in_the_table() -> None:
    rows = planted.records("vafa_table1")
    further = [
        row | {"source_model": "other", "source_model_id": "ff", "cell_id": row["cell_id"] + "x", "dsc": 0.0}
        for row in rows
    ]
    cell = one(cells("vafa_table1", shown(*rows, *further)), attack="PGD", metric="dsc")
    assert cell["ours"] == pytest.approx(62.67)


def test_other_parameters_are_another_attack() -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"params": row["params"].replace('"steps": 20', '"steps": 21')}

    data = cells_of("vafa_table1", change)
    assert one(data, attack="PGD", metric="dsc")["reason"] == "never run"
    assert not one(data, attack="FGSM", metric="dsc")["reason"].startswith("never")


def test_another_batch_of_windows_is_another_attack_where_they_are_coupled() -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"params": row["params"].replace('"window_batch": 4', '"window_batch": 1')}

    data = cells_of("sa2_synapse", change)
    assert {*data[data["reason"] == "never run"]["attack"]} == {"SegPGD", "CosPGD"}


def test_two_checkpoints_of_one_name_are_never_averaged() -> None:
    rows = planted.records("vafa_table1")
    other = [
        row | {"source_model_id": "ffff", "target_model_id": "ffff", "cell_id": row["cell_id"] + "x", "dsc": 0.9}
        for row in rows
    ]
    data = cells("vafa_table1", shown(*rows, *other))
    assert data["ours"].isna().all()
    assert all("2 models are called unetr (" in reason for reason in data["reason"])


def test_clean_scores_of_one_case_count_once() -> None:
    """Case 0 stands in many records, with other metrics in some, the others in one: a mean over records is another."""

    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["case_id"] != "case0":
            return row | {"dsc_clean": 0.6} if row["attack"] == "pgd" else None
        return row | {"dsc_clean": 0.9, "hd95_clean": 10.0 if row["attack"] == "gn" else None}

    cell = one(cells_of("vafa_table1", change), attack="Clean", metric="dsc")
    assert (cell["ours"], cell["cases"]) == (pytest.approx((90 + 11 * 60) / 12), 12)
