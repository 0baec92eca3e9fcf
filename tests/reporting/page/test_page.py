"""The page as a reader has it in a browser: from disk, without a network."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from audit.planted import evidence, healthy
from page_rows import EVIL, FACTS, data_of, grid, robustness_rows
from reporting.handmade import row, shown

from freqbench.analysis import tables
from freqbench.audit.checks import audited
from freqbench.reporting.page import build_page, facts, page_data

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
HOSTILE = "<script>alert(1)</script>"
BOLD = "<b>&lt;</b>"
TABS = ("overview", "table", "transfer", "curves", "organs", "facts")
ROW = ".grid [role=row][row-index]:not(.heading)"


def write(folder: Path, records: pd.DataFrame, classes: pd.DataFrame | None, **parts: Any) -> Path:
    path = folder / "page.html"
    path.write_text(build_page(data_of(records, classes), **parts))
    return path


def planted() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Eight attacks on and to two models, three cases; one case, one model and one class have hostile names."""
    records, classes = grid(8, ["unet", HOSTILE], ["unet", HOSTILE], 3, 4)
    records.loc[records["case_key"] == "case1", "case_id"] = HOSTILE
    classes.loc[classes["class_index"] == 2, "class_name"] = "<img src=x onerror=alert(2)>"
    records.loc[records["attack"] == "pgd", "variant"] = BOLD
    is_failed = (records["attack"] == "gn") & (records["budget"] == 1 / 255)
    records.loc[is_failed, ["status", "error"]] = ["failed", f"=out of memory {HOSTILE}"]
    records.loc[is_failed, ["dsc", "dsc_foreground", "hd95", "ssim"]] = float("nan")
    records.loc[records["attack"] == "sa2", "hd95"] = float("nan")
    return records, classes


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("page"), *planted())


@pytest.fixture
def visit(chromium: Any, file: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page at a hash; what must not happen (errors, requests, dialogs) fails the test when it ends.

    The page forbids `eval`, so `wait_for_function` holds only where its first look succeeds: wait for a selector.
    """
    wrong: list[str] = []
    contexts = []

    def open_at(hash: str = "", width: int = 1400, path: Path = file, **settings: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, accept_downloads=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url) if not allowed(request.url) else None)
        page.set_default_timeout(60_000)
        page.goto(f"file://{path}#{hash}")
        page.wait_for_selector("[role=tabpanel]:not([hidden]) > *", state="attached")
        return page

    def allowed(url: str) -> bool:
        return url.startswith(("data:", "blob:")) or url.split("#")[0].endswith(("/page.html", "/one.js"))

    yield open_at
    for context in contexts:
        context.close()
    assert not wrong


def words(page: Any, what: str) -> str:
    said: str = page.locator(what).inner_text()
    return said


def go(page: Any, hash: str) -> None:
    """Opens the page anew at a hash."""
    page.goto(f"{page.url.partition('#')[0]}#{hash}")
    page.reload()


def open_first(page: Any) -> None:
    """A click on the first row, which has nothing to open until it shows its cells."""
    page.locator(ROW, has_text=re.compile(r"\S")).first.click()
    page.wait_for_selector("dialog[open] h2")


def rows_said(page: Any) -> str:
    """The line above the table: `32 rows, each ...`."""
    return words(page, "#panel-table .status")


def test_filter_changes_the_rows_and_keeps_groups(visit: Callable[..., Any]) -> None:
    page = visit("tab=table&sort=dsc:desc")
    page.wait_for_selector(ROW)
    assert rows_said(page).startswith("32 rows")
    assert page.locator(".grid .heading").first.inner_text() == "threat model: dct-quantization"
    first = [float(text) for text in page.locator(f"{ROW} [col-id=dsc]").all_inner_texts()[:8]]
    assert first == sorted(first, reverse=True)
    page.uncheck("text=group by threat model")
    assert page.locator("#panel-table .caution").is_visible()
    page.click("#panel-table summary:has-text('Attack')")
    page.check("#panel-table input[value=pgd]")
    assert rows_said(page).startswith("8 rows of 32")
    playwright.expect(page.locator(ROW)).to_have_count(8)
    assert all(text.startswith("pgd") for text in page.locator(f"{ROW} [col-id=attack]").all_inner_texts())


def test_a_missing_number_is_not_zero_and_says_why(visit: Callable[..., Any]) -> None:
    page = visit("tab=table&f.base=sa2")
    page.wait_for_selector(f"{ROW} [col-id=attack]:not(:empty)")
    assert set(page.locator(f"{ROW} [col-id=hd95]").all_inner_texts()) == {""}
    open_first(page)
    page.click("dialog summary:has-text('All scores')")
    texts = page.locator("dialog tr:has-text('HD95')").all_inner_texts()
    assert any("undefined on these volumes" in text for text in texts if not text.startswith("HD95 penalised"))


@pytest.mark.integration
def test_row_opens_its_cases_and_case_its_classes_and_command(visit: Callable[..., Any]) -> None:
    page = visit("tab=table&f.base=pgd&f.source=unet&f.target=unet")
    open_first(page)
    assert words(page, "dialog h2").startswith("pgd eps=")
    page.click("dialog button:has-text('case000')")
    assert words(page, "dialog h2") == "Case case000"
    assert page.locator("dialog table:has(caption span:text('Each class')) tbody tr").count() == 4
    ids = {blake2b(f"{cell:016x}/case0/unet".encode(), digest_size=8).hexdigest() for cell in range(16)}
    commands = {f"freqbench audit runs/generated --rows {row}" for row in ids}
    assert words(page, "dialog .reproduce code") in commands
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    page.wait_for_url(lambda url: "row=" not in url)
    go(page, "tab=table&f.base=gn")
    page.locator(f"{ROW}:has-text('1/255') [col-id=attack]").first.click()
    page.wait_for_selector("dialog[open] h2")
    page.click("dialog button:has-text('case000')")
    assert "failed" in words(page, "dialog .facts")
    assert page.locator("dialog .reproduce").count() == 0, "nothing to compute again"


@pytest.mark.integration
def test_a_page_of_regions_speaks_of_regions(visit: Callable[..., Any], tmp_path: Path) -> None:
    records, classes = grid(2, ["unet"], ["unet"], 1, 3)
    classes["class_name"] = classes["class_name"].str.replace("organ", "part")
    datasets = {str(records["dataset"].iloc[0]): {"regions": [[], [1], [1, 2], [2]]}}
    facts = [{**FACTS[0], "runs": [{**FACTS[0]["runs"][0], "datasets": datasets}]}]
    (tmp_path / "page.html").write_text(build_page(page_data(tables.current(records), classes, facts)))
    page = visit("tab=organs", path=tmp_path / "page.html")
    assert words(page, "#tab-organs") == "Regions"
    texts = [words(page, "main")]
    page.click("#tab-table")
    open_first(page)
    page.click("dialog summary:has-text('All scores')")
    texts.append(words(page, "dialog"))
    page.click("dialog button:has-text('case000')")
    page.click("dialog summary:has-text('All scores')")
    texts.append(words(page, "dialog"))
    assert [re.findall(r"\b(?:organ|class)\w*", text, re.IGNORECASE) for text in texts] == [[]] * 3
    assert "Mean of each region" in texts[1]
    assert "missed regions" in texts[2]


@pytest.mark.integration
def test_transfer_opens_on_the_attack_that_takes_most(visit: Callable[..., Any], tmp_path: Path) -> None:
    records, classes = grid(4, ["unet"], ["unet", "unetr"], 2, 2)
    lost = {"gn": 0.1, "pgd": 0.3, "vafa": 0.5, "sa2": 0.7}
    records["dsc_foreground_clean"] = 0.9
    records["dsc_foreground"] = 0.9 - records["attack"].astype(str).map(lost).astype(float)
    records.loc[records["attack"] == "sa2", "params"] = '{"control": "random"}'
    page = visit("tab=transfer", path=write(tmp_path, records, classes))
    assert page.locator("#panel-transfer h3").first.inner_text().startswith("vafa ")
    link = page.locator("#panel-transfer a")
    assert link.inner_text() == "Hanif et al., MICCAI 2023, arXiv:2307.07269"
    assert link.get_attribute("href") == "https://arxiv.org/abs/2307.07269"
    page.click("header .link:has-text('Job')")
    assert page.locator("#panel-facts details.job[open] pre").is_visible()


@pytest.mark.integration
def test_telephone_has_all_columns_of_the_chosen_model(visit: Callable[..., Any], tmp_path: Path) -> None:
    names = ["one-network", "other-network", "third-network", "union-larger", "unet"]
    page = visit(width=400, path=write(tmp_path, *grid(4, names, names, 2, 2)))
    heads = page.locator("#panel-overview .heat-table thead th")
    assert heads.all_inner_texts() == ["attack", "one-network", "drop", "SSIM body"]
    boxes = [each.bounding_box() for each in heads.all()]
    assert max(box["x"] + box["width"] for box in boxes) <= 400
    page.select_option("#panel-overview label:has-text('Model') select", "unet")
    assert heads.all_inner_texts()[1] == "unet"


@pytest.mark.integration
def test_equal_points_are_both_seen(visit: Callable[..., Any], tmp_path: Path) -> None:
    records, classes = grid(2, ["unet"], ["unet"], 1, 2)
    for name in ("dsc_foreground", "dsc_foreground_clean", "l2_body", "ssim_body"):
        records[name] = 0.5
    page = visit(path=write(tmp_path, records, classes))
    sizes = "[...document.querySelector('#panel-overview .chart').data].flatMap(({ marker }) => marker.size)"
    assert page.evaluate(sizes) == [10, 18]
    assert "A ring: another attack on the same spot." in page.locator("#panel-overview figcaption").first.inner_text()


@pytest.mark.integration
def test_a_reload_shows_the_same(visit: Callable[..., Any]) -> None:
    page = visit("tab=table&level=cases&f.base=pgd&q=case002&sort=ssim:desc")
    open_first(page)
    title = words(page, "dialog h2")
    facts = words(page, "dialog .facts")
    page.reload()
    page.wait_for_selector("dialog[open]")
    assert (words(page, "dialog h2"), words(page, "dialog .facts")) == (title, facts)
    assert rows_said(page).startswith("8 rows of 96")
    assert page.locator("[role=columnheader][col-id=ssim]").get_attribute("aria-sort") == "descending"


@pytest.mark.integration
def test_the_csv_holds_what_is_shown_as_text_to_a_spreadsheet(visit: Callable[..., Any], tmp_path: Path) -> None:
    fields = {"=1+1": "'=1+1", "  @x": "'  @x", "+a": "'+a", "-b": "'-b", 'a"b,c': '"a""b,c"', "\t=2": "' =2"}
    records, classes = grid(4, ["a"], ["a"], len(fields), 2)
    path = write(tmp_path, records.assign(case_id=[*fields] * 4), classes)
    page = visit("tab=table&f.base=gn&sort=dsc:asc&level=cases", path=path)
    with page.expect_download() as download:
        page.click("text=Download CSV")
    text = Path(download.value.path()).read_text()
    lines = list(csv.DictReader(io.StringIO(text)))
    scores = [float(line["dsc"]) for line in lines]
    assert scores == sorted(scores)
    assert {line["attack"] for line in lines} == {"gn std=1/255"}
    assert len({line["id"] for line in lines}) == len(fields)
    assert [cell for cell in fields.values() if f",{cell}," not in text] == []


def test_every_tab_draws_narrowly_and_names_are_text(visit: Callable[..., Any]) -> None:
    page = visit(width=360)
    for name in TABS:
        page.evaluate(f"document.getElementById('tab-{name}').click()")
        page.wait_for_selector(f"#panel-{name}:not([hidden]) > *")
        page.wait_for_timeout(100)
        assert words(page, f"#panel-{name}").strip()
        assert page.locator(f"#panel-{name} script, #panel-{name} img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
    assert page.locator("#panel-transfer thead th", has_text=HOSTILE).count() > 0
    assert page.locator("#panel-organs thead th", has_text="<img src=x").count() > 0
    assert page.locator("#tab-audit:visible, #tab-volumes:visible").count() == 0  # they would be empty
    page.set_viewport_size({"width": 1400, "height": 900})
    page.click("#tab-curves")
    page.wait_for_selector("#panel-curves .chart .main-svg")
    assert page.locator("#panel-curves .chart[aria-label^=linf] .legendtext", has_text=BOLD).count() > 0
    label = page.locator("#panel-curves .chart").first.get_attribute("aria-label")
    assert re.search(r"foreground DSC against q_max.*1 attack, foreground DSC from [\d.]+ to [\d.]+", label)
    page.locator("#panel-curves figure details summary").first.click()
    assert page.locator("#panel-curves figure table").first.locator("tbody tr").count() == 2
    page.click("#tab-table")
    page.fill("#panel-table input[type=search]", "<script>")
    page.select_option("#panel-table .choice select", "cases")
    page.wait_for_selector(f"{ROW} [col-id=case]:not(:empty)")
    open_first(page)
    assert HOSTILE in words(page, "dialog")
    assert page.locator("dialog script, dialog img").count() == 0


@pytest.mark.integration
def test_twelve_points_have_names_or_numbers(visit: Callable[..., Any], tmp_path: Path) -> None:
    records, classes = grid(12, ["unet"], ["unet"], 2, 2)
    records["variant"] = "a-form-with-a-rather-long-name-" + records["budget"].rank(method="dense").astype(str)
    page = visit(width=1400, path=write(tmp_path, records, classes))
    for width in (1400, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        chart = page.locator("#panel-overview .chart").first
        names = chart.locator(".annotation-text")
        assert names.count() == 12
        texts = page.locator("#panel-overview .key li").all_inner_texts()
        if page.locator("#panel-overview .key").is_visible():
            assert sorted(names.all_text_contents(), key=int) == [str(number) for number in range(1, 13)]
        else:
            shown = ["".join(name.split()) for name in names.all_text_contents()]
            assert sorted(shown) == sorted("".join(text.split()) for text in texts)
        boxes = [name.bounding_box() for name in names.all()]
        for place, one in enumerate(boxes):
            for two in boxes[:place]:
                is_beside = one["x"] >= two["x"] + two["width"] or two["x"] >= one["x"] + one["width"]
                assert is_beside or one["y"] >= two["y"] + two["height"] or two["y"] >= one["y"] + one["height"]
        assert chart.locator(".plotbg, .nsewdrag").first.bounding_box()["height"] > 200
    page.click("#tab-curves")
    page.wait_for_selector("#panel-curves .chart .main-svg")
    assert page.locator("#panel-curves .chart").count() == 1  # the trade-off
    threats = "dct-quantization, dct-scaling, gaussian, linf"
    said = words(page, "#panel-curves")
    assert f"Not drawn, as no attack was run at two budgets or more: {threats}." in said


@pytest.mark.integration
def test_dark_follows_the_system_and_print_is_a_table(visit: Callable[..., Any]) -> None:
    page = visit(color_scheme="dark")
    shade = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(shade) == "rgb(15, 18, 23)"
    page.click("button.theme")
    assert page.evaluate(shade) == "rgb(246, 247, 249)"
    page.reload()
    page.wait_for_selector("#panel-overview > *")
    assert page.evaluate(shade) == "rgb(246, 247, 249)"
    go(page, "tab=table&f.base=pgd")
    page.wait_for_selector(ROW)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator(".print-only tbody tr").count() == 9  # eight rows and their threat model
    assert not page.locator(".tabs").is_visible()


def tab_to(page: Any, condition: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate(condition):
            return


@pytest.mark.integration
def test_the_keyboard_reaches_a_row_s_classes(visit: Callable[..., Any]) -> None:
    page = visit()
    tab_to(page, "document.activeElement.id == 'tab-overview'")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-table"
    page.wait_for_selector(ROW)
    tab_to(page, "!!document.activeElement.closest('[role=columnheader]')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    tab_to(page, "document.activeElement.textContent == 'case000'")
    page.keyboard.press("Enter")
    assert words(page, "dialog h2") == "Case case000"


@pytest.mark.integration
def test_a_viewer_may_run_the_files_beside_the_page(visit: Callable[..., Any], tmp_path: Path) -> None:
    """A page on a disk may not fetch its neighbours."""
    (tmp_path / "one.js").write_text("document.querySelector('.viewer').textContent = 'ran';")
    viewer = (
        "window.freqbenchViewer = {open(element, manifest) { const script = document.createElement('script');"
        "script.src = `${manifest.name}.js`; document.head.append(script); }};"
    )
    path = write(
        tmp_path,
        *grid(1, ["a"], ["a"], 1, 2),
        viewer=viewer,
        volumes={"name": "one", "cases": [{"dsc": {}, "source": "a"}]},
    )
    visit("tab=volumes", path=path).wait_for_selector(".viewer:has-text('ran')")


def parts(*rows: dict[str, Any]) -> dict[str, Any]:
    data = page_data(shown(*rows), None, [])
    return {name: data[name] for name in ("tables", "natural", "bounds")}


@cache
def robustness(dataset: str) -> dict[str, Any]:
    """The parts of these rows on a dataset; not to be changed."""
    return parts(*({**each, "dataset": dataset} for each in robustness_rows()))


def test_the_chart_has_a_drop_and_its_interval_a_row_and_model() -> None:
    (chart,) = robustness("phantom")["natural"]
    assert (chart["models"], chart["cases"]) == ((EVIL,), 2)
    assert chart["rows"] == [("corruptions", "blur"), ("attacks", "pgd eps=8/255")]
    assert chart["drops"] == {EVIL: [(1.5, None, None), (40.0, None, None)]}
    assert set(map(len, parts(row("pgd", dsc=0.5)).values())) == {0}  # without defence and corruption


@pytest.mark.integration
def test_the_chart_of_bounds_has_both_ends_of_each_norm(visit: Callable[..., Any], tmp_path: Path) -> None:
    (ends,) = robustness("phantom")["bounds"]
    assert [ends[name] for name in ("model", "kind", "sigma", "cases")] == ["smooth", "bias_field", 0.5, 1]
    assert [each["radius"] for each in ends["rows"]] == [0.5, 1]
    near, far = ends["rows"]
    assert 50 <= far["certified"] < near["certified"] < 58
    page = visit("tab=robustness", path=of_datasets(tmp_path, "phantom"))
    page.wait_for_selector(".chart[aria-label^='phantom, smooth: between certificate and attack']")
    lines = "[...document.querySelectorAll('.chart')].at(-1).data.map(({ name, y, fill }) => [name, [...y], fill])"
    assert page.evaluate(lines) == [
        ["certified at least", [near["certified"], far["certified"]], "none"],
        ["attacked at most", [69.96, 60], "tonexty"],  # more than no change leaves is no attack
        ["median without a change", [69.96, 69.96], "none"],
    ]


WORDS = """() => {
    const shown = document.body.cloneNode(true);
    for (const each of shown.querySelectorAll("script, .chart")) each.remove();
    const all = [...document.querySelectorAll(".chart")];
    const charts = all.map(({ ariaLabel, layout: { title, xaxis, yaxis }, data }) =>
        JSON.stringify([ariaLabel, title, xaxis.title, yaxis.title, data.map(({ text }) => text)]));
    return shown.outerHTML + charts.join();
}"""
"""Text and attributes of a page, and what its charts say, also where one points."""


def of_datasets(folder: Path, *datasets: str, is_audited: bool = False) -> Path:
    """A page of the same grid on each dataset, with a chart of corruptions, and if so asked an audit, on the first."""
    grids = [grid(8, ["unet", "unetr"], ["unet", "unetr"], 3, 4, seed) for seed in range(len(datasets))]
    for number, frames in enumerate(grids):
        for frame in frames:
            frame["cell_id"] = f"{number}" + frame["cell_id"].str[1:]
    records = [records.assign(dataset=name) for (records, _), name in zip(grids, datasets, strict=True)]
    data = data_of(pd.concat(records, ignore_index=True), pd.concat([frame for _, frame in grids], ignore_index=True))
    data |= robustness(datasets[0])
    if is_audited:
        data["audit"] = facts.audit(audited(evidence([{**each, "dataset": datasets[0]} for each in healthy()])))
    path = folder / "page.html"
    path.write_text(build_page(data))
    return path


@pytest.mark.integration
def test_scores_without_labels_are_agreement_wherever_they_stand(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit(path=of_datasets(tmp_path, "scans (agreement)", is_audited=True))
    texts = []
    for tab in (*TABS, "audit", "robustness", "organs&organs=dsc", "transfer&transfer=dsc", "table&level=cases"):
        go(page, f"tab={tab}")
        page.wait_for_selector(f"#panel-{tab.split('&')[0]}:not([hidden]) > *")
        page.wait_for_timeout(100)
        texts.append(page.evaluate(WORDS))
    open_first(page)
    texts.append(page.evaluate(WORDS))
    page.click("dialog .link")
    page.wait_for_selector("dialog button:has-text('case000')")
    texts.append(page.evaluate(WORDS))
    said = "".join(texts).replace("runs of one setting differ by 0.5 DSC", "")  # of published numbers
    assert said.count("foreground agreement") > 20
    assert re.findall(".{60}DSC.{20}", said) == []


@pytest.mark.integration
def test_scores_with_and_without_labels_stand_apart(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit(path=of_datasets(tmp_path, "synapse", "scans (agreement)"))
    kinds = {"agreement", "DSC"}
    for table in page.locator("#panel-overview table").all():
        assert len(kinds & set(re.findall("agreement|DSC", table.locator("thead").inner_text()))) < 2
    go(page, "tab=table&group=no&sort=dsc_foreground:desc")
    page.wait_for_selector(ROW)
    assert page.locator(".grid .heading").first.inner_text() == "agreement"
    assert set(page.locator(f"{ROW} [col-id=dataset]").all_inner_texts()[:10]) == {"scans (agreement)"}
    assert words(page, ".grid [role=columnheader][col-id=dsc]") == "DSC or agreement with background"
    page.click("#panel-table summary:has-text('Dataset')")
    page.check("#panel-table input[value=synapse]")
    playwright.expect(page.locator(".grid [role=columnheader][col-id=dsc]")).to_have_text("DSC with background")
    playwright.expect(page.locator(".grid .heading")).to_have_count(0)


@pytest.fixture(scope="module")
def tab(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page with a model of a hostile name that is flagged."""
    audit = facts.audit(audited(evidence(healthy(EVIL, {"twice": {"left": 45}}))))
    path = tmp_path_factory.mktemp("tabs") / "page.html"
    path.write_text(build_page(data_of(*grid(1, ["a"], ["a"], 1, 2)) | robustness("phantom") | {"audit": audit}))
    page = chromium.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"file://{path}#tab=robustness")
    page.wait_for_selector("#panel-robustness h3")
    yield page
    page.close()


@pytest.mark.integration
def test_reader_sees_illusion_beside_what_is_left_and_chart(tab: Any) -> None:
    tab.click("#tab-robustness")
    defences = tab.locator("#panel-robustness table", has_text="adaptive DSC").inner_text()
    assert "88.0" in defences
    assert "40.0" in defences
    assert "48.0" in defences
    assert tab.locator("#panel-robustness .chart .scatterlayer .trace").count() == 1 + 3
    assert "Drops of 1 model on 2 cases." in words(tab, "#panel-robustness")
    assert tab.locator("#panel-robustness img").count() == 0
    tab.click("text=Dark")
    assert tab.locator("#panel-robustness .chart .scatterlayer .trace").count() == 1 + 3


@pytest.mark.integration
def test_flagged_model_is_read_in_the_audit(tab: Any) -> None:
    tab.click("#tab-audit")
    tab.wait_for_selector("#panel-audit table")
    models = tab.locator("#panel-audit table").first.inner_text()
    assert "flagged (" in models
    assert "a larger budget hurts more (1 sign of masked gradients" in models
    text = words(tab, "#panel-audit")
    assert EVIL in text
    assert "leaves 5.0 points more DSC than" in text
    assert tab.locator("#panel-audit img").count() == 0
    assert tab.locator("#panel-audit table").nth(1).locator("tbody tr:not(.heading)").count() == 1
    assert not tab.locator("#panel-audit select").is_visible()  # all findings are folded
    tab.click("#panel-audit summary:has-text('findings')")
    tab.select_option("#panel-audit select", "violated")
    lines = tab.locator("#panel-audit table").nth(2).locator("tbody tr:not(.heading)")
    assert lines.count() == 1
    assert "a larger budget hurts more" in lines.first.inner_text()
    assert "verdict=violated" in tab.evaluate("location.hash")
    tab.select_option("#panel-audit select", "")
    assert lines.count() > 10
