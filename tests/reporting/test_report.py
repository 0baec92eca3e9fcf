"""The report and the commands that show results hold what a reader needs, fit the terminal, and can be read back."""

import csv
import io
import math
import re
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from reporting.handmade import job_of, row, stored
from tiny_job import JOB, execute, small
from typer.testing import CliRunner

from freqbench.analysis import tables
from freqbench.analysis.tables import summary
from freqbench.cli.report import app, write_page
from freqbench.core.errors import UserError
from freqbench.data.loaders.anatomy import REGIONS
from freqbench.ops.regions import members, numbers_of
from freqbench.reporting import figures
from freqbench.reporting.contents import regions_of
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import FIGURES, cases
from freqbench.reporting.page.manifest import write_volumes
from freqbench.reporting.papers.recipes import RECIPES
from freqbench.reporting.render import Section, markdown, terminal
from freqbench.reporting.report import FORMATS, report
from freqbench.reporting.views import VIEWS
from freqbench.results import CLASS_RECORDS, KEY, Store


@pytest.fixture
def grid() -> Store:
    """Two models with long names, three attacks, every pair, two cases; one failure with a long reason."""
    models = ("swin_unetr_of_the_second_kind", "unet")
    scores = {"dsc": 0.5, "dsc_clean": 0.75}
    settings = product(("pgd", "gn", "vafa"), ("none", "uniform"), models, models, range(2))
    rows = [
        row(attack, {"steps": 20, "control": control}, source=source, target=target, case=case, **scores)
        for attack, control, source, target, case in settings
    ]
    rows[0] |= {"status": "failed", "error": "CUDA | out of memory\n" * 12, "dsc": None, "dsc_clean": None}
    rows[1] |= {"hd95": 12.0, "hd95_undefined_classes": 1}
    return stored(*rows)


def pipe_tables(text: str) -> list[list[list[str]]]:
    """The cells of each Markdown table, checked to have equally many in every row."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    tables = [table for table in tables if table]
    assert all(len({*map(len, table)}) == 1 for table in tables)
    return tables


def test_page_fits_the_terminal_and_has_its_parts(grid: Store) -> None:
    text = report([grid])
    assert max(len(line) for line in text.splitlines()) <= 110
    titles = ("unet, white-box", "foreground DSC x100 of each target", "phantom: DSC x100 of each target", "Failed")
    for words in (*titles, "How to read this", "47 ok, 1 failed"):
        assert words in text


def test_the_markdown_tables_can_be_parsed(grid: Store) -> None:
    first, *_, failed = pipe_tables(report([grid], format="markdown"))
    assert first[0][:5] == ["attack", "threat model", "n", "foreground DSC", "drop foreground"]
    assert first[2][:4] == ["clean", "", "2", "75.0"]
    assert failed[2][-2:] == ["1", "CUDA / out of memory " * 11 + "CUDA / out of memory"]


def test_seeds_and_hd95_counts_stand_beside_the_cases() -> None:
    rows = [row("dfb", case=case, seed=seed, dsc=0.5) for case, seed in product(range(2), range(3))]
    rows += [row(case=case, dsc=0.5, hd95=value) for case, value in enumerate((10.0, math.nan, 20.0))]
    (table,) = pipe_tables(report([stored(*rows)], format="markdown"))
    linf, none = table[2:]
    assert linf[:9] == ["pgd eps=8/255", "linf", "3", "50.0", "", "", "50.0", "", "15.0 (n 2)"]
    assert none[2:] == ["2x3", "50.0", "", "", "50.0", *[""] * 9]


def test_each_target_has_its_table_and_a_star() -> None:
    assert "attacks on unet, transferred to unetr" in report([stored(row(source="unet", target="unetr", dsc=0.6))])
    rows = [row(source="unet", target=target, dsc=dsc) for target, dsc in (("unet", 0.1), ("unetr", 0.6))]
    transfer = pipe_tables(report([stored(*rows)], format="markdown"))[1]
    assert transfer[2] == ["pgd eps=8/255", "linf", "unet", "10.0*", "60.0"]


def test_csv_reads_back_equal(grid: Store) -> None:
    expected = summary(grid.records().to_pandas())
    text = io.BytesIO(report([grid], format="csv").encode())
    frame = pd.read_csv(text, engine="pyarrow")  # which rounds correctly; that of pandas 2 does not
    frame = frame.fillna({"source_model": "", "threat_model": ""}).astype(expected.dtypes)
    pd.testing.assert_frame_equal(frame, expected, rtol=0, atol=0)


def test_only_the_rows_of_the_job_are_shown() -> None:
    mine = row(dsc=0.5)
    former = row("gn", dsc=0.1)
    text = report([stored(mine, former)], {tuple(mine[name] for name in KEY), ("not", "done", "yet")})
    assert "gn" not in text
    assert "1 ok, 0 failed, 1 not done, of 2" in text


@pytest.mark.integration
def test_former_versions_are_mentioned() -> None:
    text = report([stored(row(cell_id="old", dsc=0.1), row(cell_id="new", dsc=0.3, minute=1))])
    assert "1 of them are of a former version" in text


@pytest.mark.integration
@pytest.mark.parametrize("table", [None, "overview", "audit"])
@pytest.mark.parametrize("format", FORMATS)
def test_rows_of_two_releases_are_a_line_of_every_table(format: str, table: str | None) -> None:
    made = [row(dsc=0.5, dsc_clean=0.75, case=case, releases=f"monai 1.{5 + case}") for case in range(2)]
    with warnings.catch_warnings(record=True) as caught:
        text = report([stored(*made)], None, format, table)
    told = f"{text} {caught[0].message if caught else ''}".replace("\n", " ")
    assert ("1 row with monai 1.5; 1 row with monai 1.6" in told, len(caught)) == (True, format == "csv")


def test_the_audit_speaks_of_datasets_with_five_patients() -> None:
    few = [row(case=case, dsc=0.9, dsc_clean=0.5, dataset="few") for case in range(4)]
    text = report([stored(*few)])
    assert "freqbench audit OUT shows all" in text
    assert "Audit: can the numbers" not in text
    many = [row(case=case, dsc=0.9, dsc_clean=0.5, dataset="many", cell_id="many") for case in range(5)]
    text = report([stored(*few, *many)])
    audit = text[text.index("Audit: can the numbers be believed?") :]
    assert " many " in audit
    assert " few " not in audit


@pytest.mark.parametrize("keys", [None, set()])
def test_nothing_to_report_is_a_user_error(tmp_path: Path, keys: set[Any] | None) -> None:
    with pytest.raises(UserError, match=r"out: expected results to report, found none: run the job first"):
        report([Store(str(tmp_path / "out"))], keys)


def test_a_section_may_be_text_alone() -> None:
    section = Section("Title", text="[bold]as it is[/bold]")
    assert terminal([section]) == "Title\n[bold]as it is[/bold]\n"
    assert markdown([section]) == "## Title\n\n[bold]as it is[/bold]\n"


@pytest.mark.integration
def test_terminal_shows_sixty_rows_other_formats_all() -> None:
    """81 rows: clean, and one attack with 80 budgets."""
    long = stored(*(row("vafa", budget=float(budget), dsc=0.5, dsc_clean=0.75) for budget in range(1, 81)))
    lines = report([long]).splitlines()
    shown = [line.split()[1] for line in lines if line.startswith(" vafa")]
    assert shown == 2 * [f"q_max={budget}" for budget in range(1, 60)]  # the table is in two parts, as it is wide
    assert "... and 21 more rows: --format csv (or md) has all of them" in lines
    (table,) = pipe_tables(report([long], format="markdown"))
    assert (len(table), len(pd.read_csv(io.StringIO(report([long], format="csv"))))) == (2 + 81, 81)


CASES = 3


def write(root: Path, rows: list[dict[str, Any]], redistributable: bool = True) -> str:
    """A store of these rows, each with two classes, that knows its job and its run."""
    classes = []
    for each in rows:
        own = {column.name: each.get(column.name) for column in CLASS_RECORDS} | {"dsc_clean": 0.9}
        names = enumerate(("background", "organ"))
        classes.append([own | {"class_index": index, "class_name": name, "dsc": each["dsc"]} for index, name in names])
    store = stored(*rows, root=root, classes=classes)
    dataset = {"recipe": {}, "redistributable": redistributable, "cases": {}}
    store.write_run("run0", {"status": "done", "records": len(rows), "failed": 0, "datasets": {"phantom": dataset}})
    store.write_job(job_of(rows))
    return store.root


@pytest.fixture
def out(tmp_path: Path) -> str:
    distances = {"ssim_body": 0.9, "lpips_body": 0.1, "l2_body": 3.0, "dsc_clean": 0.9}
    settings = product(((4, 0.7), (8, 0.5)), ("unet", "unetr"), range(CASES))
    rows = [
        row("pgd", budget=budget / 255, source="unet", target=target, case=case, dsc=dsc - 0.01 * case, **distances)
        for (budget, dsc), target, case in settings
    ]
    return write(tmp_path / "out", rows)


def called(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_table_holds_what_the_records_say_of_each_store_once(out: str) -> None:
    rows = list(
        csv.DictReader(io.StringIO(called("report", out, f"{out}/", "--table", "leaderboard", "--format", "csv")))
    )
    assert {row["budget"]: float(row["dsc"]) for row in rows} == pytest.approx({"eps=4/255": 69.0, "eps=8/255": 49.0})
    assert [row["cases"] for row in rows] == ["3", "3"]
    assert called("report", out, "--table", "vafa_table1", "--format", "md").startswith("## ")


def test_table_may_go_to_file_and_spreadsheet_holds_rows_of_csv(out: str, tmp_path: Path) -> None:
    tex = tmp_path / "table.tex"
    sheet = tmp_path / "table.xlsx"
    said = called("report", out, "--table", "transfer", "--format", "latex", "--to", str(tex))
    assert said.split() == ["written:", str(tex)]
    assert r"\toprule" in tex.read_text()
    called("report", out, "--table", "leaderboard", "--format", "xlsx", "--to", str(sheet))
    expected = pd.read_csv(io.StringIO(called("report", out, "--table", "leaderboard", "--format", "csv")))
    pd.testing.assert_frame_equal(pd.read_excel(sheet), expected, check_dtype=False)
    with pytest.raises(UserError, match="--format xlsx: expected --to, got none"):
        called("report", out, "--format", "xlsx")


def test_report_is_a_screen_that_names_page_and_other_tables(out: str) -> None:
    said = called("report", out)
    assert said.startswith(called("report", out, "--table", "overview"))
    assert len(said.splitlines()) <= 30
    assert f"\npage: none; freqbench report {out} --format html writes it\n" in said
    names = " ".join(said.split()).partition("more by --table NAME: ")[2].replace("; of papers: ", ", ").split(", ")
    assert {*names, "overview"} == {*VIEWS, *RECIPES, "audit", "all"}
    assert called("report", out, "--table", "all").startswith("Records\n")


def test_pictures_are_files_or_have_a_reason(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {name: figures.FIGURES[name] for name in ("distance", "case")})
    said = called("report", out, "--figures", str(tmp_path / "pictures"))
    assert {path.suffix for path in (tmp_path / "pictures").iterdir()} == {".pdf", ".png"}
    assert ": no volumes are saved" in said


def test_bad_wishes_are_refused_in_one_line(out: str, tmp_path: Path) -> None:
    for arguments, text in (
        (("report", out, "--figures", str(tmp_path), "--table", "transfer"), "--figures: expected no other option"),
        (("report", out, "--to", str(tmp_path)), "--to: expected a file, got"),
        (("report", out, "--volumes"), "expected --format html without --table"),
        (("report", out, "--format", "html", "--table", "transfer"), "expected no --table, as html is the page"),
        (("compare", out, out, "--format", "html"), "unknown format 'html'"),
        (("compare", out, str(tmp_path / "none")), "expected a result store, found no such file"),
    ):
        with pytest.raises(UserError, match=text):
            called(*arguments)


def test_the_page_is_one_file_beside_the_results(tmp_path: Path) -> None:
    """Also where rows are left out that labels tell apart."""
    plain = [row("pgd", {"steps": 20}, case=case, dsc=0.5) for case in range(2)]
    reduced = [row("pgd", {"steps": 99}, case=case, dsc=0.4, precision="bf16") for case in range(2)]
    out = write(tmp_path / "mixed", [*plain, *reduced])
    said = called("report", out, "--format", "html")
    page = Path(out) / "report.html"
    assert said.startswith(f"written: {page}")
    assert "freqbench-data" in page.read_text()


@pytest.mark.integration
def test_volumes_that_must_not_be_passed_on_need_leave(tmp_path: Path) -> None:
    out = write(tmp_path / "kept", [row(case=0, dsc=0.5)], redistributable=False)
    with pytest.raises(UserError, match="phantom: expected permission"):
        write_page([out], None, with_volumes=True, yes=False)
    called("report", out, "--format", "html", "--volumes", "--yes")
    assert (Path(out) / "report" / "index.html").exists()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("out")
    content = small(
        datasets=[{"name": "lesions", "loader": "phantom", "regions": True, "shape": [24, 20, 16], "cases": 1}],
        models=[{**JOB["models"][0], "outputs": "sigmoid"}],
        attacks=[{"name": "fgsm", "eps": "8/255"}],
        metrics=["dsc", "nsd"],
        save_adversarial="nifti",
    )
    execute(content, out)
    return Store(str(out))


def test_a_figure_names_every_region_and_no_other_number(store: Store) -> None:
    rows = shown_rows(store.records().to_pandas())
    material = Material(rows, store.class_records().to_pandas(), f"{store.root}/volumes")
    figure = dict(FIGURES["case"](material))["lesions", "a"]
    assert isinstance(figure, Figure)
    (legend,) = figure.legends
    names = [f"{k} {name}" for k, name in enumerate(REGIONS, 1)]
    assert [text.get_text() for text in legend.get_texts()] == names


def test_the_viewer_names_every_region(store: Store, tmp_path: Path) -> None:
    rows = tables.current(store.records().to_pandas()), store.class_records().to_pandas()
    manifest = write_volumes(*rows, [store.root], str(tmp_path), regions_of(store.runs()))
    (case,) = manifest["cases"]
    assert case["class_names"] == ["background", *REGIONS]
    assert manifest["regions"][case["dataset"]][:4] == [[], [1], [1, 2], [1, 2, 3]]


def test_tables_of_regions_speak_of_regions(store: Store) -> None:
    text = report([store], table="clinical")
    assert "Means over foreground regions" in text
    assert not re.search(r"organ|class(?!_)", text)


def test_outline_of_a_region_runs_around_inner_ones() -> None:
    """Lines between the labels of a shown map are the outlines of the regions."""
    codes = torch.zeros(12, 12, dtype=torch.uint8)
    codes[1:11, 1:11] = 1
    codes[3:9, 3:8] = 3
    codes[5:7, 5:7] = 7
    codes[8:10, 3:10] |= 4
    axis = Figure().subplots()
    regions = Figure().subplots()
    cases._show(axis, np.zeros((12, 12)), 1.0, codes.numpy(), regions=[numbers_of(code) for code in range(8)])
    for region in (1, 2, 3):
        regions.contour(members(codes, region).numpy(), levels=[0.5])
    points = [
        {tuple(point) for each in drawn.findobj(QuadContourSet) for path in each.get_paths() for point in path.vertices}
        for drawn in (axis, regions)
    ]
    assert points[0] == points[1]
    assert len(points[0]) > 40
