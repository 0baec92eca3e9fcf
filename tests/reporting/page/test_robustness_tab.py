"""Defences, certificates and corruptions as a reader of the page has them: a chart a dataset, and the views' tables."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from generated_page import browser, data_of, grid
from reporting.conftest import make_row

from freqbench.analysis.strength import checked
from freqbench.analysis.tables import current
from freqbench.reporting.page import build_page, robustness

HOSTILE = "<img src=x onerror=alert(1)>"
DEFENCE = '{"name": "bit_depth", "bits": 3, "adaptive": ADAPTIVE, "undefended": "id"}'
Frame = Callable[..., pd.DataFrame]


def rows() -> list[dict[str, Any]]:
    """A corrupted and attacked model of a hostile name, and a defence under the naive and the adaptive attacker."""
    severities = [
        make_row("corruption", {"kind": "blur"}, source=HOSTILE, target=HOSTILE, budget=b, dsc=0.9 - b / 100, case=case)
        for b in (1.0, 2.0)
        for case in (0, 1)
    ]
    attacked = [make_row("pgd", source=HOSTILE, target=HOSTILE, dsc=0.5, case=case) for case in (0, 1)]
    defended = [
        make_row("pgd", source=name, target=name, dsc=dsc, **dict.fromkeys(("source_defence", "target_defence"), text))
        for name, dsc, text in (
            ("bits", 0.4, DEFENCE.replace("ADAPTIVE", "true")),
            ("naive", 0.88, DEFENCE.replace("ADAPTIVE", "false")),
        )
    ]
    return [row | {"dsc_clean": 0.9} for row in (*severities, *attacked, *defended)]


@pytest.fixture
def parts(records: Frame) -> dict[str, Any]:
    shown = current(checked(records(*rows())))
    return {"tables": robustness.tables(shown), "natural": robustness.charts(shown)}


def test_the_chart_has_a_drop_and_its_interval_a_row_and_model(parts: dict[str, Any]) -> None:
    (chart,) = parts["natural"]
    assert (chart["models"], chart["cases"]) == ([HOSTILE], 2)
    assert chart["rows"] == [["corruptions", "blur"], ["attacks", "pgd eps=8/255"]]
    assert chart["drops"] == {HOSTILE: [[1.5, 1.5, 1.5], [40.0, 40.0, 40.0]]}


def test_a_store_without_defence_and_corruption_has_nothing_of_it(records: Frame) -> None:
    shown = current(checked(records(make_row("pgd"))))
    assert (robustness.tables(shown), robustness.charts(shown)) == ([], [])


@pytest.fixture
def tab(parts: dict[str, Any], tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "page.html"
    path.write_text(build_page(data_of(*grid(1, ["a"], ["a"], 1, 2)) | parts))
    with browser() as chromium:
        page = chromium.new_page()
        page.set_default_timeout(20_000)
        page.goto(f"file://{path}#tab=robustness")
        page.wait_for_selector("#panel-robustness h3")
        yield page


def test_a_reader_sees_the_illusion_beside_what_is_left_and_a_chart(tab: Any) -> None:
    defences = tab.locator("#panel-robustness table", has_text="adaptive DSC").inner_text()
    assert "88.0" in defences
    assert "40.0" in defences
    assert "48.0" in defences
    assert tab.locator("#panel-robustness .chart .scatterlayer .trace").count() == 1
    assert "Drops of 1 model on 2 cases." in tab.locator("#panel-robustness").inner_text()
    assert tab.locator("#panel-robustness img").count() == 0
    tab.click("text=Dark")
    assert tab.locator("#panel-robustness .chart .scatterlayer .trace").count() == 1
