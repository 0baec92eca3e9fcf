"""The tabs of robustness and of the audit as a reader of the page has them."""

from collections.abc import Iterator
from typing import Any

import pytest
from audit.planted import evidence, healthy
from generated_page import data_of, grid
from reporting.handmade import row, shown

from freqbench.audit.checks import audited
from freqbench.reporting.audit import page_part
from freqbench.reporting.page import build_page, page_data

HOSTILE = "<img src=x onerror=alert(1)>"
DEFENCE = '{"name": "bit_depth", "bits": 3, "adaptive": ADAPTIVE, "undefended": "id"}'


def rows() -> list[dict[str, Any]]:
    """A corrupted and attacked model of a hostile name, and a defence under the naive and the adaptive attacker."""
    hostile = {"source": HOSTILE, "target": HOSTILE}
    made = [
        row("corruption", {"kind": "blur"}, **hostile, budget=budget, dsc=0.9 - budget / 100, case=case)
        for budget in (1.0, 2.0)
        for case in (0, 1)
    ]
    made += [row("pgd", **hostile, dsc=0.5, case=case) for case in (0, 1)]
    for name, dsc, adaptive in (("bits", 0.4, "true"), ("naive", 0.88, "false")):
        defences = dict.fromkeys(("source_defence", "target_defence"), DEFENCE.replace("ADAPTIVE", adaptive))
        made.append(row("pgd", source=name, target=name, dsc=dsc, **defences))
    return [row | dict.fromkeys(("dsc_clean", "dsc_foreground_clean"), 0.9) for row in made]


def parts(*rows: dict[str, Any]) -> dict[str, Any]:
    data = page_data(shown(*rows), None, [])
    return {name: data[name] for name in ("tables", "natural")}


def test_the_chart_has_a_drop_and_its_interval_a_row_and_model() -> None:
    (chart,) = parts(*rows())["natural"]
    assert (chart["models"], chart["cases"]) == ([HOSTILE], 2)
    assert chart["rows"] == [["corruptions", "blur"], ["attacks", "pgd eps=8/255"]]
    assert chart["drops"] == {HOSTILE: [[1.5, 1.5, 1.5], [40.0, 40.0, 40.0]]}
    assert parts(row("pgd", dsc=0.5)) == {"tables": [], "natural": []}  # without defence and corruption


@pytest.fixture(scope="module")
def tab(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page with a model of a hostile name that is flagged."""
    audit = page_part(audited(evidence(healthy(HOSTILE, {"twice": {"left": 45}}))))
    path = tmp_path_factory.mktemp("tabs") / "page.html"
    path.write_text(build_page(data_of(*grid(1, ["a"], ["a"], 1, 2)) | parts(*rows()) | {"audit": audit}))
    page = chromium.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"file://{path}#tab=robustness")
    page.wait_for_selector("#panel-robustness h3")
    yield page
    page.close()


def test_a_reader_sees_the_illusion_beside_what_is_left_and_a_chart(tab: Any) -> None:
    tab.click("#tab-robustness")
    defences = tab.locator("#panel-robustness table", has_text="adaptive DSC").inner_text()
    assert "88.0" in defences
    assert "40.0" in defences
    assert "48.0" in defences
    assert tab.locator("#panel-robustness .chart .scatterlayer .trace").count() == 1
    assert "Drops of 1 model on 2 cases." in tab.locator("#panel-robustness").inner_text()
    assert tab.locator("#panel-robustness img").count() == 0
    tab.click("text=Dark")
    assert tab.locator("#panel-robustness .chart .scatterlayer .trace").count() == 1


def test_a_flagged_model_is_read_in_the_audit_and_the_address_keeps_its_filter(tab: Any) -> None:
    tab.click("#tab-audit")
    tab.wait_for_selector("#panel-audit table")
    models = tab.locator("#panel-audit table").first.inner_text()
    assert "flagged" in models
    assert "budget (1 sign of masked gradients" in models
    text = tab.locator("#panel-audit").inner_text()
    assert HOSTILE in text
    assert "leaves 5.0 points more DSC than" in text
    assert tab.locator("#panel-audit img").count() == 0
    tab.select_option("#panel-audit select", "violated")
    lines = tab.locator("#panel-audit table").nth(1).locator("tbody tr:not(.heading)")
    assert lines.count() == 1
    assert "a larger budget hurts more" in lines.first.inner_text()
    assert "verdict=violated" in tab.evaluate("location.hash")
    tab.select_option("#panel-audit select", "")
    assert lines.count() > 10
