"""What the page is given: columns, codes, reasons and limits."""

import gzip
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from generated_page import FACTS, data_of, grid
from reporting.handmade import records, row

from freqbench.analysis.scores import SCORES, shown_scores
from freqbench.analysis.tables import SUMMARY, current
from freqbench.reporting.page import data as page
from freqbench.reporting.page import packed
from freqbench.reporting.page.data import numbers, texts
from freqbench.results import RECORDS


def column(frame: dict[str, Any], name: str) -> list[Any]:
    """A column of a frame as plain values."""
    if name in frame["numbers"]:
        return frame["numbers"][name]
    coded = frame["texts"][name]
    return [coded["values"][code] if code >= 0 else None for code in coded["codes"]]


def test_numbers_keep_four_significant_digits_and_nulls_and_texts_are_coded() -> None:
    values = [0.00123456, -12345.6, 7.0, np.nan, 0.0, np.inf, 52.535]  # the last is stored as a little less
    assert numbers(values) == [0.001235, -12350, 7, None, 0, None, 52.53]
    plain = pd.Series(["b", None, "a", "b"])
    assert texts(plain.astype("category")) == texts(plain) == {"values": ["b", "a"], "codes": [0, -1, 1, 0]}


def test_every_score_is_a_column_of_the_summary_and_of_the_records() -> None:
    known = {each.name for each in RECORDS}
    assert {score.name for score in SCORES} <= set(SUMMARY) | {"hd95_undefined"}
    assert {score.source for score in SCORES} <= known


def test_single_cases_have_the_units_of_the_means() -> None:
    """One case alone is its own mean."""
    values = dict.fromkeys(("dsc", "ssim", "ssim_body", "lpips_similarity", "lpips_body", "voxel_success"), 0.25)
    values |= {"dsc_clean": 0.75, "linf": 2 / 255, "l2": 3.0, "hd95": 4.0, "hd95_penalised": 5.0, "psnr": 30.0}
    frame = current(records(row("pgd", **values)).assign(left_out=""))
    shown = {name: series.iloc[0] for name, series in shown_scores(frame).items()}
    assert shown["dsc"] == shown["ssim"] == shown["lpips"] == shown["voxel_success"] == 25
    assert (shown["dsc_drop"], shown["lpips_body"], shown["linf_255"]) == (50, 75, pytest.approx(2))
    made = data_of(frame, None)
    for score in SCORES:
        if score.name != "hd95_undefined":
            assert column(made["summary"], score.name) == column(made["cases"], score.name), score.name


def test_a_failed_row_is_empty_with_its_reason_and_not_zero() -> None:
    made = data_of(records(row(status="failed", error="out of memory"), row("gn", dsc=0.5)), None)
    errors = dict(zip(column(made["summary"], "attack"), column(made["summary"], "error"), strict=True))
    assert errors == {"pgd eps=8/255": "out of memory", "gn std=8/255": None}
    place = column(made["summary"], "error").index("out of memory")
    assert column(made["summary"], "dsc")[place] is None
    assert made["counts"] == {"ok": 1, "failed": 1, "left_out": 0}
    assert made["failures"][0]["reason"] == "out of memory"


def test_a_mean_says_which_metrics_it_covers_and_why_one_is_null() -> None:
    first = row(case=0, dsc=0.5, metrics="dsc,lpips", null_reasons='{"lpips_body": "no weights"}')
    second = row(case=1, dsc=0.5, metrics="dsc,ssim")
    made = data_of(records(first, second), None)["summary"]
    assert sorted(column(made, "metrics")[0].split(",")) == ["dsc", "lpips", "ssim"]
    assert json.loads(column(made, "null_reasons")[0]) == {"lpips_body": "no weights"}


def test_family_is_the_label_without_its_budget() -> None:
    rows = [row("vafa", {"control": kind}, budget=q, dsc=0.5) for kind in ("none", "uniform") for q in (10.0, 20.0)]
    made = data_of(records(*rows), None)["summary"]
    assert sorted(set(column(made, "family"))) == ["vafa", "vafa control=uniform"]
    assert set(column(made, "budget_text")) == {"q_max=10", "q_max=20"}


def test_class_rows_stand_with_their_cases() -> None:
    """Walked by the counts, as the page does it, every case finds its own classes."""
    records, classes = grid(3, ["a", "b"], ["a", "b", "c"], 2, 4)
    made = data_of(records, classes)
    cases, values = made["cases"], made["case_classes"]
    keys = ["source", "target", "attack"]
    summary = made["summary"]
    wanted = classes.merge(current(records.assign(left_out="")), on=["cell_id", "case_key", "target_model_id"])
    wanted = wanted.set_index(["source_model", "target_model", "label", "case_id", "class_index"])["dsc_x"]
    begin = 0
    for place, number in enumerate(column(cases, "row")):
        of_case = (*(column(summary, name)[number] for name in keys), column(cases, "case")[place])
        for at in range(begin, begin + column(cases, "classes")[place]):
            expected = 100 * wanted[*of_case, column(values, "class")[at]]
            assert column(values, "dsc")[at] == pytest.approx(expected, rel=1e-3)
        begin += column(cases, "classes")[place]
    assert begin == values["rows"] == len(classes)


def test_class_means_leave_undefined_values_out() -> None:
    records, classes = grid(1, ["a"], ["a"], 3, 2)
    classes["dsc"] = [0.2, np.nan, 0.4, 0.5, 0.6, np.nan]  # class 0: .2 .4 .6, class 1: nan .5 nan
    made = data_of(records, classes)["class_means"]
    assert column(made, "dsc") == [40, 50]
    assert column(made, "cases") == [3, 1]


def test_too_many_cases_leave_their_means_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_CASES", 5)
    made = data_of(*grid(2, ["a"], ["a"], 3, 2))
    assert made["cases"] is None
    assert made["case_classes"] is None
    assert "6 single cases are too many" in made["omitted"]["cases"]
    assert made["summary"]["rows"] == 2
    assert made["class_means"]["rows"] == 4


def test_intervals_hold_the_mean_and_need_two_patients() -> None:
    made = data_of(*grid(1, ["a"], ["a"], 6, 2))["summary"]
    low, mean, high = (column(made, f"dsc_foreground{end}")[0] for end in ("_low", "", "_high"))
    assert low < mean < high
    alone = data_of(*grid(1, ["a"], ["a"], 1, 2))["summary"]
    assert column(alone, "dsc_foreground_low") == [None]


def test_rows_left_out_by_the_strength_check_are_told_and_not_shown() -> None:
    made = data_of(records(row(dsc=0.5), row("gn", dsc=0.5, precision="bf16")), None)
    assert column(made["summary"], "base") == ["pgd"]
    assert made["left_out"][0]["attack"].startswith("gn")
    assert "fp32" in made["left_out"][0]["reason"]


def test_progress_counts_the_records_of_a_run_against_its_grid() -> None:
    index = {"cells": [{"cell_id": "c", "dataset": "d", "targets": ["a", "b"]}], "cases": {"d": ["1", "2", "3"]}}
    facts = [{**FACTS[0], "job": {"spec": {"name": "mine"}, "index": index}}]
    frame = current(records(row(case=0), row(case=1, status="failed", error="no")).assign(left_out=""))
    made = page.page_data(frame, None, facts)
    progress = made["runs"][0]
    assert (progress["planned"], progress["done"], progress["failed"]) == (6, 1, 1)
    assert made["title"] == "mine"


def test_packed_data_is_plain_json_and_the_same_for_the_same_rows() -> None:
    """Also of a run that has just begun, which a server shows."""
    records, classes = grid(1, ["a"], ["a"], 1, 2)
    made = data_of(records[:0], classes[:0])
    assert made["summary"]["rows"] == made["cases"]["rows"] == 0
    assert json.loads(gzip.decompress(packed(made))) == json.loads(json.dumps(made))
    assert packed(made) == packed(made)
