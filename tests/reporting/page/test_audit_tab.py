"""The audit as a reader of the page has it: a verdict a model, the findings, and a filter that the address keeps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit.planted import evidence, healthy
from generated_page import browser, data_of, grid

from freqbench.audit.checks import audited
from freqbench.reporting.audit import page_part
from freqbench.reporting.page import build_page

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The tab, with a model of a hostile name that is flagged."""
    found = audited(evidence(healthy(HOSTILE, {"twice": {"left": 45}})))
    data = {**data_of(*grid(1, ["a"], ["a"], 1, 2)), "audit": page_part(found)}
    path: Path = tmp_path_factory.mktemp("audit") / "page.html"
    path.write_text(build_page(data))
    with browser() as chromium:
        page = chromium.new_page()
        page.set_default_timeout(20_000)
        page.goto(f"file://{path}#tab=audit")
        page.wait_for_selector("#panel-audit table")
        yield page


def test_a_flagged_model_and_its_reason_are_read_there(tab: Any) -> None:
    models = tab.locator("#panel-audit table").first.inner_text()
    assert "flagged" in models
    assert "budget (1 sign of masked gradients" in models
    assert "leaves 5.0 points more DSC than" in tab.locator("#panel-audit").inner_text()


def test_the_filter_keeps_one_verdict_and_the_address_has_it(tab: Any) -> None:
    tab.select_option("#panel-audit select", "violated")
    lines = tab.locator("#panel-audit table").nth(1).locator("tbody tr:not(.heading)")
    assert lines.count() == 1
    assert "a larger budget hurts more" in lines.first.inner_text()
    assert "verdict=violated" in tab.evaluate("location.hash")
    tab.select_option("#panel-audit select", "")
    assert lines.count() > 10


def test_names_are_text(tab: Any) -> None:
    assert tab.locator("#panel-audit img").count() == 0
    assert HOSTILE in tab.locator("#panel-audit").inner_text()
