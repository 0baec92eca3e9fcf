"""Beginning of the page: a heat map, the trade-off and glimpses, and the way from each to its rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_rows import FACTS, grid
from reporting.handmade import glimpse_of

from freqbench.analysis import tables
from freqbench.reporting.colors import class_color
from freqbench.reporting.page import build_page, manifest, page_data
from freqbench.results.glimpses import Glimpse, Glimpses, Slice, pack_planes

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
CASES = 3


def stored() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six settings of two models; the ids are as a store has them."""
    records, classes = grid(6, ["unet", "unetr"], ["unet", "unetr"], CASES, 2)
    keys = {f"case{number}": f"{number:016x}" for number in range(CASES)}
    for frame in (records, classes):
        frame["case_key"] = frame["case_key"].map(keys)
    records.loc[records["attack"] == "vafa", "params"] = '{"q_max": 1, "control": "uniform"}'
    return records, classes


def page_of(root: str, records: pd.DataFrame, classes: pd.DataFrame) -> dict[str, Any]:
    return page_data(tables.current(records), classes, [{**FACTS[0], "store": root}])


def add(root: str, rows: pd.DataFrame) -> None:
    """A glimpse of each row, which says in its grey level how much was lost."""
    glimpses = Glimpses(root)
    for cell_id, case_key, before, after in rows[
        ["cell_id", "case_key", "dsc_foreground_clean", "dsc_foreground"]
    ].itertuples(index=False):
        drop = 100 * (before - after)
        glimpses.add(Glimpse(cell_id=cell_id, case_key=case_key, drop=drop, shown=glimpse_of(128 + round(drop))))
        glimpses.flush()


def text(data: dict[str, Any], name: str, row: int) -> str:
    column = data["summary"]["texts"][name]
    return str(column["values"][column["codes"][row]])


def test_each_row_of_means_has_its_worst_glimpse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, classes = stored()
    own = records[records["source_model"] == records["target_model"]]
    add(str(tmp_path), own)
    (tmp_path / "glimpses" / f"{'e' * 16}_{'0' * 16}_99.00.json").write_text(
        glimpse_of(0).model_dump_json()
    )  # of a cell without rows
    data = page_of(str(tmp_path), records, classes)
    drops = 100 * (own["dsc_foreground_clean"] - own["dsc_foreground"])
    worst = own.assign(drop=drops).sort_values("drop", ascending=False).drop_duplicates("cell_id")
    assert [each["drop"] for each in data["glimpses"]] == worst["drop"].round(2).tolist()
    assert [each["case"] for each in data["glimpses"]] == worst["case_id"].tolist()
    assert [text(data, "source", each["row"]) for each in data["glimpses"]] == worst["source_model"].tolist()
    assert {text(data, "transfer", each["row"]) for each in data["glimpses"]} == {"white-box"}
    first = Slice(**data["glimpses"][0]["slice"])
    assert first.unpack()[0, 0, 0] == 128 + round(worst["drop"].iloc[0])
    monkeypatch.setattr(manifest, "MOST_BYTES", 2 * len(first.planes) + 9)
    assert page_of(str(tmp_path), records, classes)["glimpses"] == data["glimpses"][:2]


@pytest.fixture(scope="module")
def overview(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("pictures")
    records, classes = stored()
    add(str(folder), records[records["source_model"] == records["target_model"]])
    path = folder / "page.html"
    path.write_text(build_page(page_of(str(folder), records, classes)))
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(60_000)
    page.goto(f"file://{path}")
    page.wait_for_selector("#panel-overview .chart .main-svg")
    yield page
    page.close()


def begin(overview: Any) -> None:
    """Opens the beginning of the page again."""
    overview.goto(overview.url.partition("#")[0])


TORN = """() => [...document.querySelectorAll('#panel-overview tbody th')].flatMap((head) => {
  const text = head.firstChild;
  return [...(text?.data ?? "").matchAll(/[^\\s-]+/g)].map((word) => {
    const range = document.createRange();
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    return range.getClientRects().length > 1 ? word[0] : "";
  });
})"""


def test_a_narrow_table_breaks_no_word_of_an_attack(overview: Any) -> None:
    torn = overview.evaluate(TORN)
    assert len(torn) > 10
    assert "".join(torn) == ""


def test_pictures_lead_to_the_rows(overview: Any) -> None:
    def place(what: str) -> float:
        return float(overview.locator(f"#panel-overview {what}").first.bounding_box()["y"])

    order = [place(what) for what in (".lead-case", ".heat-table", ".chart", ".strip", ".findings", ".progress")]
    assert (order, overview.evaluate("document.documentElement.scrollWidth")) == (sorted(order), 390)
    assert overview.locator(".heat-table td.null").count() == 2
    assert overview.locator(".strip .glimpse").count() == overview.locator(".strip span.glimpse").count() == 6
    overview.locator(".heat-table button").first.focus()
    overview.keyboard.press("Enter")
    overview.wait_for_selector("dialog[open] span.glimpse")
    assert overview.locator("dialog .facts dd").all_inner_texts()[:3] == ["synapse", "unet", "unet"]
    assert overview.locator("dialog button.link").count() == CASES
    overview.go_back()
    overview.wait_for_selector("#panel-overview:not([hidden]) .strip")
    overview.select_option("#panel-overview label:has-text('Model') select", "unetr")
    overview.locator(".strip button").first.click()
    overview.wait_for_selector("dialog[open] span.glimpse")
    assert overview.locator("dialog .facts dd").all_inner_texts()[:3] == ["synapse", "unetr", "unetr"]


def test_worst_case_is_clean_left_of_the_slider_s_thumb(overview: Any) -> None:
    begin(overview)
    case = overview.locator("#panel-overview .lead-case")
    rows = [row.all_inner_texts() for row in overview.locator(".lead-case ~ .charts .heat-table tbody tr").all()]
    assert rows[0][0].startswith("clean")
    assert "SSIM body" in overview.locator(".heat-table thead").inner_text()
    heading = case.locator("h2").inner_text()
    assert heading.startswith("Worst case: ")
    assert "control=" not in heading  # a null row is no attack
    top = case.locator(".stack canvas").nth(1)
    playwright.expect(top).to_have_attribute("data-drawn", "yes")
    shares = []
    for value in ("0", "100"):
        case.locator("input[type=range]").fill(value)
        shares.append(top.evaluate("(each) => getComputedStyle(each).clipPath"))
    assert shares == ["inset(0px 0px 0px 0%)", "inset(0px 0px 0px 100%)"]  # the adversarial slice lies on top
    assert case.locator("input").get_attribute("aria-valuetext") == "100 % clean, 0 % adversarial"
    assert case.locator(".pair").first.locator("p span").all_inner_texts() == ["clean", "adversarial"]
    last = case.locator(".pair").last.locator("p span").all_inner_texts()
    assert last == ["<b>unet</b>, clean, DSC 100.0", "unet, DSC 25.0"]
    assert " points of foreground DSC, mean over organs in the label: " in case.inner_text()
    assert case.locator(".wipe > p").inner_text() == "grey from -175 to 250 in the unit of the file; visible change"
    assert "save_adversarial: nifti" in case.inner_text()


LEGEND = """(each) => [...each.querySelectorAll(".class-name")].map((name) =>
  [name.textContent, name.firstChild.style.background])"""


def test_each_glimpse_has_a_legend_of_the_classes_that_it_shows(overview: Any) -> None:
    begin(overview)
    for place in (".lead-case", ".strip li"):
        picture = overview.locator(place).first
        picture.scroll_into_view_if_needed()
        picture.locator(".class-name").last.wait_for()
        rgb = [f"rgb{(*bytes.fromhex(class_color(index)[1:]),)}" for index in (1, 2)]
        assert picture.evaluate(LEGEND) == [["organ 1", rgb[0]], ["class 2", rgb[1]]]  # a name that no row states


PIXELS = """(canvas) => [[4, 4], [12, 4], [4, 12], [12, 12]].map(([x, y]) =>
  [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3))"""


def colours(canvas: Any) -> Any:
    """The 16 x 16 pixels of a canvas."""
    pixels = canvas.evaluate("(each) => [...each.getContext('2d').getImageData(0, 0, 16, 16).data]")
    return np.array(pixels).reshape(16, 16, 4)[..., :3]


def test_a_glimpse_has_these_colours_and_its_captions_are_text(overview: Any) -> None:
    """Middles of the quarters of each panel are compared, in which nothing lies, then the label's own border."""
    begin(overview)
    first = overview.locator(".strip .glimpse").first
    first.scroll_into_view_if_needed()
    playwright.expect(first.locator("canvas").last).to_have_attribute("data-drawn", "yes")
    shade = 128 + round(float(overview.locator(".strip .hint").first.inner_text().split()[2]))
    grey = np.full(3, shade)
    white = np.full(3, 255)
    orange = (230, 97, 1)
    purple = (94, 60, 153)
    expected: list[list[Any]] = [
        [grey, grey, grey, grey],
        [grey, white, grey, white],
        [orange, purple, orange, purple],
        [grey, grey, grey, grey],
        [grey, white, grey, white],
        [grey, grey, grey, grey],
    ]
    pixels = [canvas.evaluate(PIXELS) for canvas in first.locator("canvas").all()]
    assert np.abs(np.subtract(pixels, expected)).max() <= 1
    of_label, of_attacked = (colours(first.locator("canvas").nth(place)) for place in (3, 4))
    one, two = ([*bytes.fromhex(class_color(index)[1:])] for index in (1, 2))
    assert (of_label[7] == one).all()  # solid, to the last voxel of rows 0 to 7
    drawn = (of_attacked[8] == two).all(axis=-1)  # dashed, the first of rows 8 to 15
    assert drawn.any()
    assert not drawn.all()
    assert (of_attacked[7] == one).all()  # the label lies beneath
    assert first.locator("b").count() == 0
    shown = ["clean", "adversarial", "change, ±40/255", "label", "unet, DSC 25.0", "<b>unet</b>, clean, DSC 100.0"]
    assert first.locator("> span").all_inner_texts() == shown
    edges = "(side) => getComputedStyle(side, '::before').content.slice(1, -1)"
    assert "".join(side.evaluate(edges) for side in first.locator(".side").all()) == len(shown) * "RLA"
    assert first.get_attribute("aria-label").endswith(f": {'; '.join(shown)}")
    hint = overview.locator(".strip .hint").first.inner_text()
    assert hint.endswith(" points; grey from -175 to 250 in the unit of the file; visible change")


@pytest.mark.integration
def test_a_glimpse_of_regions_has_the_outline_of_each(chromium: Any, tmp_path: Path) -> None:
    """Region 2, columns 8 to 15, lies in region 1; its own edge is column 8, the others are of both."""
    records, classes = stored()
    own = records[(records["source_model"] == "unet") & (records["target_model"] == "unet")].iloc[:1]
    planes = glimpse_of(128).unpack().copy()
    planes[3, :, :8] = 1
    planes[3, :, 8:] = 3
    shown = glimpse_of(128).model_copy(update={"planes": pack_planes(planes), "regions": [[], [1], [2], [1, 2]]})
    key = own.iloc[0]
    glimpses = Glimpses(str(tmp_path))
    glimpses.add(Glimpse(cell_id=key["cell_id"], case_key=key["case_key"], drop=9.0, shown=shown))
    glimpses.flush()
    (tmp_path / "page.html").write_text(build_page(page_of(str(tmp_path), own, classes)))
    page = chromium.new_page()
    page.goto(f"file://{tmp_path / 'page.html'}")
    canvas = page.locator(".strip .glimpse canvas").nth(3)
    canvas.scroll_into_view_if_needed()
    playwright.expect(canvas).to_have_attribute("data-drawn", "yes")
    grid = colours(canvas)
    page.close()
    one, two = (np.array([*bytes.fromhex(class_color(index)[1:])]) for index in (1, 2))
    is_one, is_two = ((grid == color).all(axis=-1) for color in (one, two))
    assert is_one[:, 0].all()
    assert is_one[[0, 15], :8].all()
    assert is_two[1:15, 8].all()
    shared = [*zip(is_one[0, 9:], is_two[0, 9:], strict=True), *zip(is_one[1:15, 15], is_two[1:15, 15], strict=True)]
    assert {*shared} == {(True, False), (False, True)}
    assert not (is_one | is_two)[1:15, 1:8].any()
    assert (grid[4, 12] == 128).all()


@pytest.mark.integration
def test_a_point_of_the_trade_off_leads_to_its_rows(overview: Any) -> None:
    begin(overview)
    overview.wait_for_selector("#panel-overview .chart .main-svg")
    overview.locator("#panel-overview .chart .point").last.click(force=True)
    overview.wait_for_selector("dialog[open] h2")
    assert "tab=table" in overview.evaluate("location.hash")
