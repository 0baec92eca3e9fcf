"""The page's file and what it is given: columns, codes, reasons, limits, sentences; nothing gets out of its place."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_rows import FACTS, data_of, grid
from reporting.handmade import records, row, shown

import freqbench.reporting.page
from freqbench.analysis.scores import SCORES, shown_scores
from freqbench.analysis.tables import SUMMARY, current
from freqbench.reporting.page import build_page, pack_data, page_data
from freqbench.reporting.page import data as page
from freqbench.reporting.page.data import numbers, texts
from freqbench.results import RECORDS


def column(frame: Mapping[str, Any], name: str) -> list[Any]:
    if name in frame["numbers"]:
        return list(frame["numbers"][name])
    coded = frame["texts"][name]
    return [coded["values"][code] if code >= 0 else None for code in coded["codes"]]


def test_numbers_keep_six_digits_and_texts_are_coded() -> None:
    values = [0.00123456, -1234567.8, 7.0, np.nan, 0.0, np.inf, 12.353182]  # of 12.35, 12.3 would be shown
    assert numbers(values) == [0.00123456, -1234570, 7, None, 0, None, 12.3532]
    plain = pd.Series(["b", None, "a", "b"])
    assert texts(plain.astype("category")) == texts(plain) == {"values": ["b", "a"], "codes": [0, -1, 1, 0]}


def test_every_score_is_column_of_summary_and_of_records() -> None:
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
    assert column(made["summary"], "dsc")[column(made["summary"], "error").index("out of memory")] is None
    assert made["failures"][0]["reason"] == "out of memory"


def test_a_mean_says_which_metrics_it_covers_and_why_one_is_null() -> None:
    first = row(case=0, dsc=0.5, metrics="dsc,lpips", null_reasons='{"lpips_body": "no weights"}')
    made = data_of(records(first, row(case=1, dsc=0.5, metrics="dsc,ssim")), None)["summary"]
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
    cases, values, keys = made["cases"], made["case_classes"], ["source", "target", "attack"]
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
    assert begin == len(column(values, "dsc")) == len(classes)


def test_class_means_leave_undefined_values_out() -> None:
    records, classes = grid(1, ["a"], ["a"], 3, 2)
    classes["dsc"] = [0.2, np.nan, 0.4, 0.5, 0.6, np.nan]  # class 0: .2 .4 .6, class 1: nan .5 nan
    made = data_of(records, classes)["class_means"]
    assert (column(made, "dsc"), column(made, "cases")) == ([40, 50], [3, 1])


@pytest.mark.integration
def test_too_many_cases_leave_their_means_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_CASES", 5)
    made = data_of(*grid(2, ["a"], ["a"], 3, 2))
    assert made["cases"] is None
    assert made["case_classes"] is None
    assert "6 single cases are too many" in made["omitted"]["cases"]
    assert (made["summary"]["rows"], len(column(made["class_means"], "dsc"))) == (2, 4)


@pytest.mark.integration
def test_intervals_hold_the_mean_and_need_two_patients() -> None:
    made = data_of(*grid(1, ["a"], ["a"], 6, 2))["summary"]
    low, mean, high = (column(made, f"dsc_foreground{end}")[0] for end in ("_low", "", "_high"))
    assert low < mean < high
    assert column(data_of(*grid(1, ["a"], ["a"], 1, 2))["summary"], "dsc_foreground_low") == [None]


def test_rows_left_out_by_strength_check_are_told_and_not_shown() -> None:
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
    assert (progress["planned"], progress["done"], progress["failed"], made["title"]) == (6, 1, 1, "mine")


def test_packed_data_is_plain_json_and_same_for_same_rows() -> None:
    """Also where there are none."""
    records, classes = grid(1, ["a"], ["a"], 1, 2)
    made = data_of(records[:0], classes[:0])
    assert len(column(made["summary"], "dsc")) == len(column(made["cases"], "dsc")) == 0
    assert json.loads(gzip.decompress(pack_data(made))) == json.loads(json.dumps(made))
    assert pack_data(made) == pack_data(made)


def test_whole_numbers_have_no_point_in_the_packed_data() -> None:
    """A page is that much smaller, and 3 cases are not 3.0."""
    text = gzip.decompress(pack_data(data_of(*grid(1, ["a"], ["a"], 3, 2)))).decode()
    assert '"cases":[3]' in text
    assert '"budget":[0.00392157]' in text


def said(*rows: dict[str, Any]) -> list[str]:
    data = page_data(shown(*rows), None, [])
    for each in data["findings"]:
        for name in ("attack", "source"):
            assert column(data["summary"], name)[each["row"]] in each["text"]
    return [each["text"] for each in data["findings"]]


def scored(attack: str, drop: float, source: str = "unet", target: str = "unet", **values: Any) -> dict[str, Any]:
    return row(attack, source=source, target=target, dsc=0.9 - drop / 100, dsc_clean=0.9, **values)


def test_largest_drop_of_each_threat_model_with_transfer() -> None:
    assert said(
        *(scored("vafa", drop, case=case) for case, drop in enumerate((40.0, 53.6))),
        *(scored("vafa", drop, target="unetr", case=case) for case, drop in enumerate((16.0, 16.76))),
        *(scored("vafa", drop, target="other", case=case) for case, drop in enumerate((1.0, 2.0))),
        scored("pgd", 20.0),
        scored("pgd", 3.0, budget=1 / 255),
        scored("pgd", -2.0, target="unetr"),
        scored("gn", 0.4),
    ) == [
        "dct-quantization: vafa q_max=20 takes 46.8 points of foreground DSC from unet (90.0 to 43.2, mean of 2 cases)"
        ", 35 % of which transfers to unetr, the most of 2 models.",
        "linf: pgd eps=8/255 takes 20.0 points of foreground DSC from unet (90.0 to 70.0, one case), 0 % of which "
        "transfers to unetr.",
    ]


def test_null_row_is_no_attack() -> None:
    null = scored("vafa", 30.0, params={"control": "uniform"})
    assert said(scored("vafa", 25.0), null) == [
        "dct-quantization: vafa q_max=20 takes 25.0 points of foreground DSC from unet (90.0 to 65.0, one case); the "
        "same change without optimisation (uniform) takes 30.0."
    ]
    assert said(null) == []


@pytest.mark.parametrize("missing", [True, False])
def test_model_keeps_most_only_among_those_that_met_same_attacks(missing: bool) -> None:
    rows = [scored("pgd", 20.0), scored("vafa", 30.0), scored("pgd", 25.0, "b", "b"), scored("vafa", 4.0, "b", "b")]
    texts = said(*(rows[:3] if missing else rows))
    wanted = (
        "b keeps most: none of the 2 attacks takes more than 25.0 points from it (pgd eps=8/255); unet loses up to "
        "30.0 (vafa q_max=20)."
    )
    assert (wanted in texts) is not missing


FOLDER = Path(freqbench.reporting.page.__file__).parent
WEB, DIST = FOLDER / "web", FOLDER / "dist"


def test_the_bundle_was_made_of_these_sources() -> None:
    """Otherwise: `npm ci && npm run build` in freqbench/reporting/page/web."""
    names, digest = [f"src/{name}" for name in sorted(path.name for path in (WEB / "src").iterdir())], hashlib.sha256()
    for name in [*names, "build.mjs", "package-lock.json"]:
        digest.update(name.encode() + b"\0" + (WEB / name).read_bytes() + b"\0")
    for name in ("page.js", "charts.js", "page.css"):
        assert f"sources sha256 {digest.hexdigest()}" in (DIST / name).read_text()[:200]


def test_licences_of_what_is_bundled_stand_beside_it() -> None:
    text = (DIST / "LICENSES.txt").read_text()
    bundled = json.loads((WEB / "package.json").read_text())["devDependencies"].keys() - {"esbuild"}
    assert all(f"{name} " in text for name in bundled)
    assert text.count("Permission is hereby granted") >= len(bundled)


def test_the_lock_file_names_no_host() -> None:
    assert "://" not in re.sub(r'"url": "[^"]*"', "", (WEB / "package-lock.json").read_text())


def test_page_loads_and_runs_nothing_from_elsewhere() -> None:
    made, volumes = data_of(*grid(2, ["a"], ["a"], 2, 2)), {"base": "volumes/", "cases": []}
    page = build_page(made, volumes=volumes)
    embedded = re.search(r'id="freqbench-data">([^<]*)<', page)
    assert embedded
    wanted = json.loads(json.dumps(made | {"volumes": volumes}))
    assert json.loads(gzip.decompress(base64.b64decode(embedded[1]))) == wanted
    head = unescape(page[: page.index("<style>")])
    assert "default-src 'none'" in head
    assert "connect-src 'none'" in head
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:)", page)
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(hashes) == 2
    wanted = " ".join(f"'sha256-{each}'" for each in hashes)
    assert f"script-src {wanted};" in head


def test_texts_of_data_appear_nowhere_in_the_markup() -> None:
    hostile = "</script><script>alert(1)</script>"
    page = build_page(data_of(*grid(1, [hostile], [hostile], 1, 2)) | {"title": hostile})
    assert hostile not in page
    assert "<title>&lt;/script&gt;" in page


@pytest.mark.parametrize("text", ["a = '</SCRIPT>'", "<!-- "])
def test_a_viewer_that_would_end_its_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must not contain"):
        build_page(data_of(*grid(1, ["a"], ["a"], 1, 1)), viewer=text)
