"""Entries are made of stores and audits; boards compare like with like, and pages show what entries state."""

import hashlib
import json
import platform
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from command_line import bench
from reporting.handmade import t_interval
from reporting.leaderboard.conftest import CARD, job, write_card
from tiny_job import execute

from freqbench.audit.checks import gathered
from freqbench.audit.checks.findings import VERDICTS, Finding
from freqbench.audit.probe_files import root_of
from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.models.packaged import zoo_names
from freqbench.reporting.leaderboard import site as sites
from freqbench.reporting.leaderboard.entry_folder import BoardEntry, Told, read_entry, told_by
from freqbench.reporting.leaderboard.make import make_entry
from freqbench.results import KEY, Store, index_keys
from freqbench.results.tolerances import TOLERANCES

ENTRIES = Path(__file__).parents[3] / "reports" / "leaderboard"
HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}\"'><img src=x onerror=alert(1)>"


def told(left: dict[str, float], bounds: str = "linf eps=8/255") -> Told:
    """Facts of an entry by the foreground DSC that is left of its cases, in digests of one letter."""
    same = {"dataset": "phantom", "bounds": bounds, "cell_id": "0" * 16, "dsc_foreground_clean": 0.9}
    cases = [
        {"case_id": f"case {key}", "case_key": key, "patient_id": f"patient {key}", "dsc_foreground": score}
        | {"attack": "pgd" if key in "ab" else "apgd"}
        for key, score in left.items()
    ]
    return Told(cases={}, worst_cases=pd.DataFrame(cases).assign(**same), findings=(), verdicts=(), lacking=())


def test_board_ranks_by_the_mean_worst_case() -> None:
    scores = {"weak": [0.1, 0.2, 0.3], "strong": [0.5, 0.55, 0.65]}
    (board,) = sites.boards_of({name: told(dict(zip("abc", own, strict=True))) for name, own in scores.items()})
    assert (board.rows["entry"].tolist(), board.rows["rank"].tolist()) == (["strong", "weak"], [1, 2])
    assert board.rows["strongest"].tolist() == ["pgd", "pgd"]
    for row in board.rows.to_dict("records"):
        own = [100 * each for each in scores[row["entry"]]]
        low, high = t_interval(*own)
        assert (row["dsc_foreground"], row["low"], row["high"]) == pytest.approx((sum(own) / 3, low, high))
    assert board.rows["behind"][1] == pytest.approx(sum([40, 35, 35]) / 3)
    assert board.rows["order"].tolist() == ["", "holds"]


def test_each_packaged_network_of_real_volumes_has_a_whole_entry() -> None:
    entries = [read_entry(path.parent) for path in ENTRIES.glob("*/card.yaml")]
    carried = [name for name in zoo_names() if name.startswith("hippocampus/")]
    assert sorted(f"hippocampus/{entry.name}" for entry in entries) == carried
    for entry in entries:
        assert entry.card.checkpoint == f"zoo://hippocampus/{entry.name}"
        # An audit of twenty patients included.
        assert sum(path.stat().st_size for path in entry.folder.rglob("*") if path.is_file()) <= 500_000
        weights = files("freqbench.models.zoo") / "hippocampus" / f"{entry.name}.safetensors"
        assert entry.facts.checkpoint == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.integration
def test_the_lines_of_the_page_compute_a_cell_of_the_board_again(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first case stands for all twenty; on another processor a run of twenty steps ends a little elsewhere."""
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "leaderboard.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(lines.splitlines()) <= 10
    monkeypatch.setenv("FREQBENCH_DATA", str(shared / "data"))
    exec(lines.replace('split="test"', 'split="test", cases=1'), {})
    (name,) = re.findall(r"zoo://hippocampus/([\w.-]+)", lines)
    stored = [
        row[4]
        for row in read_entry(ENTRIES / name).store.rows(("attack", "budget", "params", "case_id", "dsc_foreground"))
        if row[:2] == ("sa2_opt", 0.4) and '"control": "none"' in row[2] and row[3] == "hippocampus_288"
    ]
    assert len(stored) == 2
    printed = float(capsys.readouterr().out.removeprefix("scaling, rho 0.4: "))
    assert TOLERANCES["records"]["dsc_foreground"].allows(min(stored), printed / 100)


@pytest.mark.parametrize(
    "other", [told({"a": 0.5, "c": 0.5}), told({"a": 0.5}), told({"a": 0.5, "b": 0.5}, bounds="linf eps=4/255")]
)
def test_other_cases_or_bounds_are_another_board(other: Told) -> None:
    boards = sites.boards_of({"one": told({"a": 0.5, "b": 0.5}), "other": other})
    assert sorted(tuple(board.rows["entry"]) for board in boards) == [("one",), ("other",)]


def longer(name: str, eps: float, left: dict[str, float]) -> pd.DataFrame:
    """Rows of longer attacks on a network by the foreground DSC that they leave of its cases."""
    rows = pd.DataFrame({"case_id": [*left], "dsc_foreground": [*left.values()], "budget": eps})
    return rows.assign(source_model=name, threat_model="linf", budget_name="eps")


def test_board_has_what_longer_attacks_take_besides() -> None:
    own = told({"a": 0.6, "b": 0.5}, "linf eps=8/255 more=1")
    (board,) = sites.boards_of({"one": own, "other": own}, longer("one", 8 / 255, {"case a": 0.57, "case b": 0.52}))
    assert board.rows["moved"].tolist() == pytest.approx([1.5, float("nan")], nan_ok=True), "0.52 counts as 0.5"


def several(**left: dict[str, float]) -> Told:
    """Facts of an entry by the foreground DSC that is left of its cases within each bounds."""
    parts = [told(scores, bounds) for bounds, scores in left.items()]
    return replace(parts[0], worst_cases=pd.concat([part.worst_cases for part in parts], ignore_index=True))


def test_board_over_all_stands_first() -> None:
    one = several(linf={"a": 0.6, "b": 0.5}, l2={"a": 0.4, "b": 0.8})
    boards = sites.boards_of({"one": one, "other": several(linf={"a": 0.5, "b": 0.7}, l2={"a": 0.9, "b": 0.3})})
    assert [board.bounds for board in boards] == ["worst of 2 threat models", "l2", "linf"]
    assert [board.over for board in boards] == [("l2", "linf"), (), ()]
    assert boards[0].rows["entry"].tolist() == ["one", "other"]
    assert boards[0].rows["dsc_foreground"].tolist() == pytest.approx([45, 40])


def test_a_board_over_all_is_not_changed_by_a_newcomer_s_bounds() -> None:
    two = {"linf": {"a": 0.6}, "l2": {"a": 0.4}}
    newcomers = {"more": several(**two, kspace={"a": 0.1}), "less": several(linf={"a": 0.9})}
    boards = sites.boards_of({"one": several(**two), "other": several(**two), **newcomers})
    assert boards[0].over == ("l2", "linf")
    assert sorted(boards[0].rows["entry"]) == ["more", "one", "other"]
    assert boards[0].rows["dsc_foreground"].tolist() == pytest.approx([40, 40, 40])


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "", "a\n1,2,3\n4\n"])
def test_table_of_longer_attacks_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "longer.csv").write_text(content)
    with pytest.raises(UserError, match=r"longer.csv: expected a table with source_model, .*, got another: "):
        sites._longer(tmp_path / "longer.csv")


@pytest.fixture(scope="module")
def site(entered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of the entry that stands, its card written by somebody who means harm, and one beside it."""
    tmp_path = tmp_path_factory.mktemp("site")
    entries = tmp_path / "entries"
    shutil.copytree(entered / "entries" / "plain", entries / "plain")
    names = ("title", "authors", "summary", "data", "training", "license", "bibtex")
    write_card(entries / "plain", **dict.fromkeys(names, HOSTILE))
    assert make_entry(str(entered / "out"), "plain", entries / "plain")
    shutil.copytree(entered / "entries" / "plain", entries / "twin")
    left = dict.fromkeys(read_entry(entries / "twin").told.worst_cases["case_id"], 0.0)
    longer("twin", 32 / 255, left).to_csv(entries / sites.LONGER)
    done: dict[str, int] = {}  # steps of a bar, by its words
    assert sites.build_site(
        entries, tmp_path / "site", lambda text: None, over=lambda each, what: each[: done.setdefault(what, len(each))]
    )
    assert done == {"entries": 2, "boards": 1}
    return tmp_path / "site"


def test_a_card_s_words_are_text(site: Path) -> None:
    pages = {path.name: path.read_text() for path in site.rglob("*.html")}
    assert set(pages) == {"index.html", "plain.html", "twin.html"}
    for page in pages.values():
        assert HOSTILE not in page
        assert "<img src=x" not in page
        assert re.findall(r"<script[^>]*>", page) == [re.search(r'<script src="(\.\./)?site.js" defer>', page)[0]]  # type: ignore[index]
        assert "default-src 'none'; script-src 'self'" in page
    assert pages["plain.html"].count("&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}") == 8


def test_page_marks_scores_that_longer_attacks_lower(site: Path) -> None:
    rows = re.findall(r"<tr>.*?</tr>", (site / "index.html").read_text(), re.DOTALL)
    assert ["entries/twin.html" in row for row in rows if "not converged" in row] == [True]


def test_pages_show_ranks_plots_and_links(entry: BoardEntry, site: Path) -> None:
    index = (site / "index.html").read_text()
    page = (site / "entries" / "twin.html").read_text()
    mean = 100 * entry.told.worst_cases["dsc_foreground"].mean()
    assert index.count(f'<td class="number">{mean:.1f}</td>') == 2
    assert "balls: linf eps=32/255" in index
    assert index.count("<svg") == 1
    assert "#010203" not in index
    assert '<a href="https://example.org/weights.pt" rel="nofollow noopener noreferrer">' in page
    assert entry.facts.checkpoint in page
    for link in re.findall(r'href="([^":#]+)"', index):
        assert (site / link).exists(), link


def test_rank_in_doubt_says_why_in_a_sentence() -> None:
    gap = "points more DSC than pgd. 1 of 2 comparisons: in doubt."
    places = [{"check": "noise_l2", "dataset": "phantom", "verdict": verdict} for verdict in VERDICTS]
    found = [Finding(**each, sentence=f"gn leaves 1.{at} {gap}") for at, each in enumerate(places)]
    why = sites.doubt(replace(told({"a": 0.5}), findings=tuple(found)), "phantom")
    assert why == "it is open whether gradients beat noise of equal L2, as gn leaves 1.1 points more DSC than pgd."
    assert sites.doubt(replace(told({"a": 0.5}), findings=tuple(found)), "scans") == ""


def test_audits_word_has_its_count_and_leads_to_its_line(site: Path) -> None:
    index = (site / "index.html").read_text()
    page = (site / "entries" / "twin.html").read_text()
    ((sentence, label),) = re.findall(r'<a href="entries/twin.html#audit" title="([^"]+)">([^<]+)</a>', index)
    assert re.fullmatch(r"(no sign|not checked|in doubt) \(\d+ of 12\)", label)
    assert f"balls: {label}.</b> {sentence}" in page
    assert '<h2 id="audit">' in page


@pytest.mark.parametrize(("count", "letter"), [(1, "a"), (18, "a"), (40, "a"), (40, "wide-name-")])
def test_no_name_of_a_plot_lies_outside_its_picture(count: int, letter: str) -> None:
    names = [f"{letter * 4}{number}" for number in range(count)]
    (board,) = sites.boards_of({name: told({"a": 0.5, "b": 0.6}) for name in names})
    drawing = ElementTree.fromstring(sites.trade_off(board.rows, names))
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    texts = {each.text: each.attrib for each in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert texts.keys() > {*names}
    for name in names:
        assert 9 <= float(texts[name]["y"]) <= height - 2, name
        assert float(texts[name]["x"]) + 6 * len(name) <= width, name
    assert float(texts["clean DSC fg (%)"]["y"]) > 150  # the legend leaves the axes their height


@pytest.mark.integration
def test_one_board_is_seen_at_a_time_on_a_phone_too(chromium: Any, tmp_path: Path) -> None:
    for name in ("union-wide", "unet"):
        shutil.copytree(ENTRIES / name, tmp_path / "entries" / name)
    assert sites.build_site(tmp_path / "entries", tmp_path / "site", lambda text: None)
    page = chromium.new_page(viewport={"width": 400, "height": 800})

    def seen() -> list[str]:
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert page.evaluate("document.documentElement.scrollHeight") < 2200
        return [each.inner_text() for each in page.locator("section h2").all() if each.is_visible()]

    page.goto(f"file://{tmp_path / 'site' / 'index.html'}")
    assert seen() == ["hippocampus: worst of 10 threat models"]
    page.get_by_label("Threat model").select_option("hippocampus: linf eps=4/255")
    assert seen() == ["hippocampus: linf eps=4/255"]
    page.reload()
    assert seen() == ["hippocampus: linf eps=4/255"]
    box = page.locator("section:visible .scroll")
    box.evaluate("(each) => each.scrollTo(200, 0)")
    assert box.locator("tbody th").first.bounding_box()["x"] == box.bounding_box()["x"]
    page.goto(f"file://{tmp_path / 'site' / 'entries' / 'unet.html'}")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert "Contact" not in page.locator("dl").inner_text()  # its card has none
    page.set_viewport_size({"width": 1400, "height": 900})
    assert page.evaluate("document.documentElement.scrollHeight") <= 3 * 900
    page.close()


@pytest.mark.integration
def test_refused_entry_has_its_reason(entered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = Path(shutil.copytree(entered / "entries", tmp_path / "entries"))
    shutil.copytree(entries / "plain", entries / "changed")
    (entries / "changed" / "card.yaml").write_text("title: mine")
    (entries / "notes.txt").write_text("not an entry")
    code, said, _ = bench(capsys, "board", "build", str(entries), "--to", str(tmp_path / "site"))
    changed, masked, written, unverified = said.splitlines()
    assert code == 1
    assert changed.startswith(f"{entries}/changed: refused: {entries}/changed/card.yaml: authors: required")
    assert masked.startswith(f"{entries}/rounded: refused: audit: Masked gradients on balls: flagged: ")
    assert written == f"written: {tmp_path / 'site' / 'index.html'} (1 of 3 entries)"
    assert unverified.endswith(f"freqbench board verify {entries}/NAME computes them again")
    assert [path.stem for path in (tmp_path / "site" / "entries").glob("*.html")] == ["plain"]


@pytest.mark.integration
def test_a_site_of_nothing_and_over_another_page_is_refused(entered: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder of entries, found none"):
        sites.build_site(tmp_path / "none", tmp_path / "site", lambda text: None)
    shutil.copytree(entered / "entries" / "rounded", tmp_path / "entries" / "rounded")
    with pytest.raises(UserError, match="expected an entry that stands, found none of 1"):
        sites.build_site(tmp_path / "entries", tmp_path / "site", lambda text: None)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my thesis")
    with pytest.raises(UserError, match="expected no file or one that freqbench wrote"):
        sites.build_site(entered / "entries", tmp_path / "site", lambda text: None)
    assert (tmp_path / "site" / "index.html").read_text() == "my thesis"


def test_calls_write_card_then_entry(
    entry: BoardEntry, entered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(entered / "out")
    folder = tmp_path / "entries" / "plain"
    call = ("board", "entry", out, "plain", "--to", str(folder.parent))
    code, said, _ = bench(capsys, *call)
    assert (code, said) == (0, f"{folder}/card.yaml: fill it in, then run this command again\n")
    assert [path.name for path in folder.iterdir()] == ["card.yaml"]
    code, _, err = bench(capsys, *call)
    assert (code, err.startswith(f"error: {folder}/card.yaml: authors: expected a text, got none")) == (2, True)
    write_card(folder)
    code, said, _ = bench(capsys, *call)
    assert (code, said) == (0, f"written: {folder}\n")
    assert read_entry(folder).facts == entry.facts


def test_a_changed_card_makes_the_entry_again(plain: Path, entered: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "plain"))
    write_card(folder, title="Brighter")
    assert make_entry(str(entered / "out"), "plain", folder)
    assert read_entry(folder).card.title == "Brighter"


def test_entry_has_rows_of_its_network_and_worst_of_its_attacks(entry: BoardEntry, entered: Path) -> None:
    rows: dict[str, list[float]] = defaultdict(list)
    for root in (str(entered / "out"), root_of(str(entered / "out"))):
        for row in Store(root).records().to_pylist():
            is_own = row["source_model"] == row["target_model"] == "plain"
            is_attack = row["threat_model"] == "linf" and row["attack"] != "random_noise"
            if is_own and is_attack and abs(row["budget"] - 32 / 255) < 1e-9:
                rows[row["case_id"]].append(row["dsc_foreground"])
    assert entry.told.worst_cases.set_index("case_id")["dsc_foreground"].to_dict() == {
        case: min(scores) for case, scores in rows.items()
    }
    assert {*entry.told.worst_cases["bounds"]} == {"linf eps=32/255"}
    assert set(Store(str(entry.folder / "store")).rows(("source_model", "target_model"))) == {("plain", "plain")}


@pytest.mark.integration
def test_bounds_whose_strongest_attack_is_not_known_rank_nothing(tmp_path: Path) -> None:
    """An audit could not tell that FAA of one step is weak."""
    attacks = [{"name": "pgd", "eps": "32/255", "steps": 1}, {"name": "faa", "portion": 0.1, "bands": 4, "steps": 1}]
    out = str(tmp_path / "out")
    with trusting():
        execute(job(tmp_path, *attacks, models=job(tmp_path)["models"][:1]), out)
    assert {*told_by(Store(out)).worst_cases["bounds"]} == {"linf eps=32/255"}


def test_rows_of_two_runs_lie_in_one_file(copy: Path, entered: Path, tmp_path: Path) -> None:
    """A run that was interrupted and went on leaves two, and an entry that is twice as large."""
    whole = Store(str(entered / "out"))
    pieces = Store(str(copy))
    shutil.rmtree(copy / "records")
    stored = list(whole.found({row[:3] for row in whole.rows(KEY)}).values())
    for number, run_id in enumerate(("first", "second")):
        writer = pieces.writer(run_id)
        half = stored[number::2]
        records, classes = zip(*half, strict=True)
        writer.add([{**record, "run_id": run_id} for record in records], classes)
        writer.flush()
        pieces.write_run(run_id, whole.run(*whole.run_ids()))
    for _ in "again":
        write_card(tmp_path / "plain")
        assert make_entry(str(copy), "plain", tmp_path / "plain")
        assert len(list((tmp_path / "plain" / "store" / "records").iterdir())) == 1
    told, whole_told = (read_entry(place / "plain").told for place in (tmp_path, entered / "entries"))
    assert (told.cases, told.verdicts) == (whole_told.cases, whole_told.verdicts)
    pd.testing.assert_frame_equal(told.worst_cases, whole_told.worst_cases)


def test_an_entry_does_not_tell_the_machine(plain: Path, entered: Path) -> None:
    texts = "".join(path.read_text() for path in plain.rglob("*") if path.suffix in (".json", ".yaml"))
    texts = re.sub(r'"planes":"[^"]*"', "", texts)  # in which a short name may stand by chance
    assert str(entered) not in texts
    for path in (plain / "store" / "runs").iterdir():
        assert not {"host", "pid", "workers"} & json.loads(path.read_text()).keys()
    assert platform.node() not in texts.replace(CARD["contact"], "")


@pytest.mark.integration
def test_an_entry_does_not_tell_where_its_data_lie(copy: Path, tmp_path: Path) -> None:
    """Others have the data elsewhere, and say where by --job."""
    folder = tmp_path / "plain"
    stored = Store(str(copy)).job()
    stored["spec"]["datasets"][0].update(root="/home/me/data/balls", list="~/lists/mine.json", split="test")
    Store(str(copy)).write_job(stored)
    write_card(folder)
    assert make_entry(str(copy), "plain", folder)
    (dataset,) = read_entry(folder).store.job()["spec"]["datasets"]
    assert (dataset["root"], dataset["list"], dataset["split"]) == ("balls", "mine.json", "test")
    assert not any("/home/me" in path.read_text() for path in folder.rglob("*.json"))


def test_a_store_that_makes_no_entry_is_one_line(entered: Path, tmp_path: Path) -> None:
    out = str(entered / "out")
    with pytest.raises(UserError, match=r"unknown model 'plane'\. Did you mean 'plain'"):
        make_entry(out, "plane", tmp_path / "plane")
    copy = shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(copy / "audit")
    with pytest.raises(UserError, match=r"plain: expected its audit, found none: freqbench audit .* --run"):
        make_entry(str(copy), "plain", tmp_path / "plain")
    shutil.rmtree(copy / "records")
    with pytest.raises(UserError, match="expected rows of attacks on it"):
        make_entry(str(copy), "plain", tmp_path / "plain")


def test_an_entry_is_of_one_network_alone(copy: Path, tmp_path: Path) -> None:
    stored = Store(str(copy)).job()
    stored["spec"]["attacks"].append({"name": "bases", "eps": "8/255", "surrogates": [["rounded"]], "sources": "plain"})
    Store(str(copy)).write_job(stored)
    with pytest.raises(UserError, match=r"plain: expected attacks that need no other network .*, got bases with"):
        make_entry(str(copy), "plain", tmp_path / "plain")


def test_cases_that_the_job_once_had_are_in_no_entry(copy: Path, entered: Path, tmp_path: Path) -> None:
    """A patient whom a network fails to segment is dropped from the job; rows of its audit stay in the store."""
    out = str(copy)
    content = job(entered)
    content["datasets"] = [{**content["datasets"][0], "cases": 1}]
    with trusting():
        execute(content, out)
    asked = index_keys(Store(out).job()["index"])
    assert gathered([Store(out)], asked).records["case_key"].nunique() == 1, "the audit's checks count it no more"
    write_card(tmp_path / "plain")
    assert make_entry(out, "plain", tmp_path / "plain")
    entry = read_entry(tmp_path / "plain")
    assert [len(cases) for cases in entry.told.cases.values()] == [1]
    assert len({row[1] for row in Store(f"{entry.store.root}/audit").rows(KEY)}) == 1
    assert len({row[1] for row in Store(f"{out}/audit").rows(KEY)}) == 2


def test_a_folder_with_other_rows_is_left_alone(entered: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(entered / "entries" / "rounded", tmp_path / "plain"))
    with pytest.raises(UserError, match=r"store: expected nothing or the rows of .*, got others"):
        make_entry(str(entered / "out"), "plain", folder)
