"""Compare: what differs first, then differences paired by names."""

import copy
import math
from math import nan
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import coded, data_lines, row, shown
from scipy import stats

from freqbench.reporting.render import Section
from freqbench.reporting.views.compare import compare

FACTS: dict[str, Any] = {
    "run_id": "run0",
    "versions": {"python": "3.11.2", "freqbench": "1.0", "torch": "2.6"},
    "code": {"commit": "a" * 40, "dirty": False},
    "devices": ["gpu"],
    "models": {"id_unet": {"name": "unet", "checkpoint": "best.pt", "sha256": "1" * 64, "migration": None}},
    "datasets": {"phantom": {"recipe": {"spacing": [1, 1, 2]}, "cases": {"case0": "f0", "case1": "f1"}}},
}


def lines(section: Section) -> dict[str, dict[str, Any]]:
    return {line["label"]: line for line in data_lines(section)}


def pgd(scores: dict[int, float], **values: Any) -> list[dict[str, Any]]:
    return [row("pgd", case=case, dsc=score, dsc_clean=0.9, **values) for case, score in scores.items()]


def test_differing_versions_come_first() -> None:
    frame = shown(*pgd({0: 0.5}))
    other = copy.deepcopy(FACTS)
    other["versions"] |= {"torch": "2.7", "ray": "2.40"}
    other["code"]["dirty"] = True
    other["models"]["id_unet"]["sha256"] = "2" * 64
    other["datasets"]["phantom"]["recipe"]["intensity"] = {"window": [0, 1]}
    other["datasets"]["phantom"]["cases"] |= {"case1": "g1", "case9": "only here"}
    assert compare(frame, frame, [FACTS], [other])[0].table.to_numpy().tolist() == [
        ["version of torch", "2.6", "2.7"],
        ["git commit", "aaaaaaaaaaaa", "aaaaaaaaaaaa, with uncommitted changes"],
        ["sha256 of model unet", "111111111111", "222222222222"],
        ["version of ray", "(none)", "2.40"],
        ["intensity.window of dataset phantom", "(none)", "[0, 1]"],
        ["files of 1 case of phantom, case1 first", "f1", "g1"],
    ]


def test_runs_without_records_or_files_tell_nothing() -> None:
    frame = shown(*pgd({0: 0.5}, seed=None))
    old = FACTS | {"run_id": "old", "versions": {"torch": "1.0"}}
    assert compare(frame, frame, [FACTS], [FACTS, old])[0].text.startswith("Nothing: the same")
    first, paired, only = compare(frame, frame, [FACTS], [])
    assert "No run file tells what made B" in first.text
    assert lines(paired)["pgd eps=8/255"]["pairs"] == 1  # an attack without seeds pairs too
    assert only.text == "Both have the same volumes."


def test_differences_are_paired_by_case_and_b_minus_a() -> None:
    a = shown(*pgd({0: 0.5, 1: 0.7, 2: nan, 3: 0.9}))
    line = lines(compare(a, shown(*pgd({1: 0.8, 0: 0.8, 2: 0.1, 4: 0.0})), [], [])[1])["pgd eps=8/255"]
    assert (line["pairs"], line["patients"], line["undefined"]) == (2, 2, 1)
    assert (line["dsc_a"], line["dsc_b"], line["difference"]) == pytest.approx((60, 80, 20))
    assert math.isnan(line["low"])  # of two patients
    assert line["detectable"] == pytest.approx(14.142 * 11.55, rel=1e-3)  # 11.55 sd with one degree of freedom


def test_p_is_of_students_t_and_holm_counts_the_rows_that_differ() -> None:
    gains = [0.01, 0.02, 0.03, -0.04, 0.05, 0.06, 0.07]
    a = pgd(dict.fromkeys(range(7), 0.5)) + [row("gn", case=n, dsc=0.5, dsc_clean=0.9) for n in range(7)]
    b = pgd({case: 0.5 + gain for case, gain in enumerate(gains)})
    b += [row("gn", case=n, dsc=0.5 - gain**2, dsc_clean=0.9) for n, gain in enumerate(gains)]
    section = compare(shown(*a), shown(*b), [], [])[1]
    by_attack = lines(section)
    expected = {"pgd eps=8/255": gains, "gn std=8/255": [-(gain**2) for gain in gains]}
    p = {label: stats.ttest_1samp(values, 0).pvalue for label, values in expected.items()}
    assert {label: by_attack[label]["p"] for label in p} == pytest.approx(p)
    assert by_attack["gn std=8/255"]["p_holm"] == pytest.approx(2 * p["gn std=8/255"])  # the smaller of two
    assert by_attack["pgd eps=8/255"]["p_holm"] == pytest.approx(max(p["pgd eps=8/255"], 2 * p["gn std=8/255"]))
    assert pd.isna(by_attack["clean"]["p"])  # nothing differs on clean volumes, which is no test
    assert section.table["difference"].tolist()[0] == "0.00"


def test_attacks_that_the_stores_name_differently_still_pair() -> None:
    """Alone, 20 steps are `pgd eps=8/255`; beside 10 steps, they are `pgd eps=8/255 steps=20`."""
    twenty = pgd({0: 0.5}, params={"steps": 20})
    a = shown(*twenty, *pgd({0: 0.6}, params={"steps": 10}))
    b = shown(*twenty)
    _, paired, only = compare(a, b, [], [])
    assert (lines(paired)["pgd eps=8/255 steps=20"]["pairs"], list(lines(only))) == (1, ["pgd eps=8/255 steps=10"])


def test_seeds_sources_and_targets_do_not_pair_across() -> None:
    a = shown(*pgd({0: 0.5}, seed=0), *pgd({0: 0.5}, seed=1, source="b"))
    _, paired, only = compare(a, shown(*pgd({0: 0.6}, seed=1), *pgd({0: 0.5}, seed=1, target="b")), [], [])
    assert paired.table is None
    assert "No volume is in both" in paired.text
    assert only.data[["both", "only_a", "only_b"]].to_numpy().tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 1]]


def test_categoricals_of_other_categories_pair() -> None:
    b = [row("pgd", case=case, dsc=0.7, dsc_clean=0.8) for case in (1, 5)]
    by_attack = lines(compare(coded(shown(*pgd({0: 0.5, 1: 0.5}))), coded(shown(*b)), [], [])[1])
    assert (by_attack["pgd eps=8/255"]["pairs"], by_attack["pgd eps=8/255"]["difference"]) == (1, pytest.approx(20))
    assert by_attack["clean"]["difference"] == pytest.approx(-10)
