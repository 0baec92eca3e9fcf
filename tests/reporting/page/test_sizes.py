"""Attacks that seek a smallest change, beside attacks with a budget: sizes in their unit, and no score ranks them."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from reporting.handmade import row, shown
from tiny_job import JOB, execute, small

from freqbench.reporting.figure_data import shown_rows
from freqbench.reporting.page import build_page, data_of
from freqbench.reporting.report import report
from freqbench.reporting.views import VIEWS
from freqbench.reporting.views.natural import compare_models
from freqbench.results import Store

HU = 425 / 255  # of the phantom's window
MINIMAL = re.compile(r"\b(fmn|ddn)\b")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three attacks on two networks; FMN lowers the Dice most, as it is asked to."""
    attacks = [{"name": "pgd", "eps": "1/255", "steps": 1}, {"name": "fmn", "steps": 6}, {"name": "ddn", "steps": 6}]
    root = tmp_path_factory.mktemp("sizes")
    execute(small(models=JOB["models"], attacks=attacks), root)
    return Store(str(root))


def of_title(text: str, title: str) -> tuple[str, str]:
    """The part of a report below the one title that contains this, and the rest."""
    parts = re.split(r"(?m)^(?=## )", text)
    (own,) = (part for part in parts if title in part.partition("\n")[0])
    return own, "".join(part for part in parts if part is not own)


@pytest.mark.parametrize("table", [None, "overview"])
def test_a_report_has_sizes_with_their_unit_in_place_of_scores(store: Store, table: str | None) -> None:
    sizes, rest = of_title(report([store], format="markdown", table=table), "smallest changes")
    assert {"fmn", "ddn"} <= {*MINIMAL.findall(sizes)}
    assert "size 50 % 1/255" in sizes
    assert "size 50 % file's unit" in sizes
    assert "HU" in sizes
    scores = "".join(line for line in rest.splitlines(keepends=True) if line.startswith("|"))
    assert "pgd" in scores
    assert not MINIMAL.search(scores)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in sizes.splitlines() if line.startswith("| ")]
    heading, *rows = lines
    reached = [dict(zip(heading, line, strict=True)) for line in rows if "100.0" in line[heading.index("fallen %")]]
    assert reached
    for each in reached:
        assert float(each["size 50 % file's unit"]) / float(each["size 50 % 1/255"]) == pytest.approx(HU, rel=0.02)


def test_report_states_step_of_intensity_in_unit_of_files(store: Store) -> None:
    text = report([store], format="markdown")
    assert "1/255 of intensity in the unit of the files (HU for CT): phantom 1.67." in text
    assert "L-inf 1/255" in text
    assert "L2 body 0..1" in text


@pytest.fixture(scope="module")
def page(store: Store, chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The page's data, and the page in a browser."""
    _, data = data_of([store])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build_page(data))
    shown_page = chromium.new_page()
    shown_page.goto(Path(path).as_uri())
    shown_page.wait_for_selector("h2")
    return data, shown_page


def test_pages_worst_case_and_ranking_leave_smallest_changes_out(page: tuple[Any, Any]) -> None:
    data, opened = page
    base = data["summary"]["texts"]["base"]
    attacks = [base["values"][code] for code in base["codes"]]
    drops = dict(zip(attacks, data["summary"]["numbers"]["dsc_foreground_drop"], strict=True))
    assert drops["fmn"] > drops["pgd"], "else nothing would be shown"
    assert not any(MINIMAL.search(each["text"]) for each in data["findings"])
    assert opened.locator(".lead-case h2").inner_text().startswith("Worst case: pgd")
    tables = opened.locator("#panel-overview table")
    texts = [tables.nth(place).inner_text() for place in range(tables.count())]
    (sizes,) = (text for text in texts if "smallest changes" in text)
    assert {"fmn", "ddn"} <= {*MINIMAL.findall(sizes)}
    assert "size 50 % file's unit" in sizes
    assert not any(MINIMAL.search(text) for text in texts if text != sizes)
    assert "linf: L-infinity ball: each voxel by at most eps" in "".join(texts)


def test_no_ranking_counts_a_smallest_change() -> None:
    """ALMAProx has a budget, its share of wrong voxels: two settings of it are no worst case either."""
    share = {"threat_model": "linf-minimal", "budget_name": "share", "budget": 0.9, "dsc_clean": 0.9}
    settings = [*product((1, 2), (0, 1))]
    rows = [row("fmn", {"steps": steps}, dsc=0.1, case=case, **share) for steps, case in settings]
    rows += [row("pgd", {"steps": steps}, dsc=0.6, dsc_clean=0.9, case=case) for steps, case in settings]
    rows += [row("corruption", dsc=0.8, dsc_clean=0.9, case=case) for case in (0, 1)]
    frame = shown(*rows)
    comparison = compare_models(shown_rows(frame))
    assert not isinstance(comparison, str)
    assert not any("fmn" in name for _, name in comparison.rows)
    (board,) = VIEWS["leaderboard"].build(frame)
    assert "linf-minimal" not in {*board.data["threat_model"]}
