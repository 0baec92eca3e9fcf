"""The commands that show results, as they are typed."""

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import job_of, row, stored
from typer.testing import CliRunner

from freqbench.cli import report
from freqbench.cli.report import app
from freqbench.core.errors import UserError
from freqbench.reporting import figures
from freqbench.results import CLASS_RECORDS

CASES = 3


def write(root: Path, rows: list[dict[str, Any]], redistributable: bool = True) -> str:
    """A store of these rows, each with two classes, that knows its job and its run."""
    classes = []
    for each in rows:
        own = {column.name: each.get(column.name) for column in CLASS_RECORDS}
        for index, name in enumerate(("background", "organ")):
            classes.append(own | {"class_index": index, "class_name": name, "dsc": each["dsc"], "dsc_clean": 0.9})
    store = stored(*rows, root=root, classes=classes)
    dataset = {"recipe": {}, "redistributable": redistributable, "cases": {}}
    store.write_run("run0", {"status": "done", "records": len(rows), "failed": 0, "datasets": {"phantom": dataset}})
    store.write_job(job_of(rows))
    return store.root


@pytest.fixture
def out(tmp_path: Path) -> str:
    distances = {"ssim_body": 0.9, "lpips_body": 0.1, "l2_body": 3.0, "dsc_clean": 0.9}
    rows = [
        row("pgd", budget=budget / 255, source=source, target=target, case=case, dsc=dsc - 0.01 * case, **distances)
        for budget, dsc in ((4, 0.7), (8, 0.5))
        for source, target in (("unet", "unet"), ("unet", "unetr"))
        for case in range(CASES)
    ]
    return write(tmp_path / "out", rows)


def called(*arguments: str) -> str:
    """What a command says; its errors are raised."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("how", [(), ("--format", "html"), ("--table", "budget", "--format", "csv")])
def test_records_without_classes_are_told_of_once(out: str, how: tuple[str, ...]) -> None:
    lost = row("fgsm", budget=4 / 255, dsc=0.6)
    store = stored(lost, root=out, name="half")
    Path(out, "class_records", "half-000000.parquet").unlink()
    job = store.job()
    job["index"]["cells"] += job_of([lost])["index"]["cells"]
    store.write_job(job)
    result = CliRunner().invoke(app, ["report", out, *how], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stderr.count("1 record left out, as class_records/half-000000.parquet is missing: restore it") == 1


def test_a_table_holds_what_the_records_say_of_each_store_once(out: str) -> None:
    text = called("report", out, f"{out}/", "--table", "budget", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    found = {row["label"]: float(row["dsc"]) for row in rows if row["label"] != "clean"}
    assert found == pytest.approx({"pgd eps=4/255": 69.0, "pgd eps=8/255": 49.0})
    assert [row["cases"] for row in rows] == ["3", "3", "3"]
    assert called("report", out, "--table", "vafa_table1", "--format", "md").startswith("## ")


def test_a_table_may_go_to_a_file(out: str, tmp_path: Path) -> None:
    file = tmp_path / "table.tex"
    said = called("report", out, "--table", "organs", "--format", "latex", "--to", str(file))
    assert said.split() == ["written:", str(file)]
    assert r"\toprule" in file.read_text()


def test_a_spreadsheet_holds_the_rows_of_the_csv(out: str, tmp_path: Path) -> None:
    file = tmp_path / "table.xlsx"
    called("report", out, "--table", "budget", "--format", "xlsx", "--to", str(file))
    expected = pd.read_csv(io.StringIO(called("report", out, "--table", "budget", "--format", "csv")))
    pd.testing.assert_frame_equal(pd.read_excel(file), expected, check_dtype=False)
    with pytest.raises(UserError, match="--format xlsx: expected --to, got none"):
        called("report", out, "--format", "xlsx")


def test_pictures_are_files_and_those_that_cannot_be_have_a_reason(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FIGURES", {name: figures.FIGURES[name] for name in ("pairs", "robust")})
    said = called("report", out, "--figures", str(tmp_path / "pictures"))
    assert {path.suffix for path in (tmp_path / "pictures").iterdir()} == {".pdf", ".png"}
    assert "no robust: phantom: no volumes are saved" in said


def test_two_stores_are_compared_by_case(out: str, tmp_path: Path) -> None:
    rows = [row("pgd", case=case, dsc=0.4 - 0.01 * case, dsc_clean=0.9) for case in range(CASES)]
    other = write(tmp_path / "other", rows)
    text = called("compare", out, other, "--format", "csv")
    rows_of = csv.DictReader(io.StringIO(text))
    found = [(row["label"], row["difference"]) for row in rows_of if row["section"].startswith("Paired")]
    assert [(label, float(value)) for label, value in found] == [("clean", 0.0), ("pgd eps=8/255", pytest.approx(-10))]


def test_bad_wishes_are_refused_in_one_line(out: str, tmp_path: Path) -> None:
    for arguments, text in (
        (("report", out, "--figures", str(tmp_path), "--table", "budget"), "--figures: expected no other option"),
        (("report", out, "--to", str(tmp_path)), "--to: expected a file, got"),
        (("report", out, "--volumes"), "expected --format html without --table"),
        (("compare", out, str(tmp_path / "none")), "expected a result store, found no such file"),
    ):
        with pytest.raises(UserError, match=text) as caught:
            called(*arguments)
        assert "\n" not in str(caught.value)


def test_the_page_is_one_file_beside_the_results(tmp_path: Path) -> None:
    """Also where rows are left out that labels tell apart."""
    plain = [row("pgd", {"steps": 20}, case=case, dsc=0.5) for case in range(2)]
    reduced = [row("pgd", {"steps": 99}, case=case, dsc=0.4, precision="bf16") for case in range(2)]
    out = write(tmp_path / "mixed", [*plain, *reduced])
    said = called("report", out, "--format", "html")
    page = Path(out) / "report.html"
    assert said.startswith(f"written: {page}")
    assert "freqbench-data" in page.read_text()


def test_volumes_that_must_not_be_passed_on_need_leave(tmp_path: Path) -> None:
    out = write(tmp_path / "kept", [row(case=0, dsc=0.5)], redistributable=False)
    with pytest.raises(UserError, match="phantom: expected permission"):
        report.write_page([out], None, with_volumes=True, yes=False)
    called("report", out, "--format", "html", "--volumes", "--yes")
    assert (Path(out) / "report" / "index.html").exists()
