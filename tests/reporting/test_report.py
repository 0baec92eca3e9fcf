"""The page holds what a reader needs, fits the terminal, and its Markdown and CSV can be read back."""

import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import row, stored

from freqbench.analysis.tables import summary
from freqbench.core.errors import UserError
from freqbench.reporting.render import Section, markdown, terminal
from freqbench.reporting.report import report
from freqbench.results import KEY, Store


@pytest.fixture
def grid() -> Store:
    """Two models with long names, three attacks, every pair, two cases; one failure with a long reason."""
    models = ("swin_unetr_of_the_second_kind", "unet")
    rows = [
        row(attack, {"steps": 20, "control": control}, source=source, target=target, case=case, dsc=0.5, dsc_clean=0.75)
        for attack in ("pgd", "gn", "vafa")
        for control in ("none", "uniform")
        for source in models
        for target in models
        for case in range(2)
    ]
    rows[0] |= {"status": "failed", "error": "CUDA | out of memory\n" * 12, "dsc": None, "dsc_clean": None}
    rows[1] |= {"hd95": 12.0, "hd95_undefined_classes": 1}
    return stored(*rows)


def pipe_tables(text: str) -> list[list[list[str]]]:
    """The cells of each Markdown table, checked to have equally many in every row."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "/").strip("|").split("|")
            tables[-1].append([cell.strip() for cell in cells])
        elif tables[-1]:
            tables.append([])
    tables = [table for table in tables if table]
    assert all(len(row) == len(table[0]) for table in tables for row in table)
    return tables


def test_the_page_fits_the_terminal_and_has_white_box_transfer_failures_and_notes(grid: Store) -> None:
    text = report([grid])
    assert max(len(line) for line in text.splitlines()) <= 110
    titles = ("unet, white-box", "DSC foreground x100 of each target", "phantom: DSC x100 of each target", "Failed")
    for words in (*titles, "How to read this", "47 ok, 1 failed"):
        assert words in text


def test_the_markdown_tables_can_be_parsed(grid: Store) -> None:
    first, *_, failed = pipe_tables(report([grid], format="markdown"))
    assert first[0][:5] == ["attack", "threat model", "n", "DSC foreground", "drop foreground"]
    assert first[2][:4] == ["clean", "", "2", "75.0"]
    assert failed[2][-2:] == ["1", "CUDA / out of memory " * 11 + "CUDA / out of memory"]


def test_seeds_stand_beside_the_cases_hd95_says_of_how_many_and_missing_cells_are_empty() -> None:
    rows = [row("dfb", case=case, seed=seed, dsc=0.5) for case in range(2) for seed in range(3)]
    rows += [row(case=case, dsc=0.5, hd95=value) for case, value in enumerate((10.0, math.nan, 20.0))]
    (found,) = pipe_tables(report([stored(*rows)], format="markdown"))
    linf, none = found[2:]
    assert linf[:9] == ["pgd eps=8/255", "linf", "3", "50.0", "", "", "50.0", "", "15.0 (n 2)"]
    assert none[2:] == ["2x3", "50.0", "", "", "50.0", *[""] * 9]


def test_without_white_box_each_target_gets_its_table_and_with_it_a_star() -> None:
    assert "attacks on unet, transferred to unetr" in report([stored(row(source="unet", target="unetr", dsc=0.6))])
    rows = [row(source="unet", target=target, dsc=dsc) for target, dsc in (("unet", 0.1), ("unetr", 0.6))]
    transfer = pipe_tables(report([stored(*rows)], format="markdown"))[1]
    assert transfer[2] == ["pgd eps=8/255", "linf", "unet", "10.0*", "60.0"]


def test_csv_reads_back_equal(grid: Store) -> None:
    expected = summary(grid.records().to_pandas())
    found = pd.read_csv(io.StringIO(report([grid], format="csv")))
    found = found.fillna({"source_model": "", "threat_model": ""}).astype(expected.dtypes)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0)


def test_only_the_rows_of_the_job_are_shown() -> None:
    mine, former = row(dsc=0.5), row("gn", dsc=0.1)
    keys = {tuple(mine[name] for name in KEY), ("not", "done", "yet")}
    text = report([stored(mine, former)], keys)
    assert "gn" not in text
    assert "1 ok, 0 failed, 1 not done, of 2" in text


def test_former_versions_are_mentioned() -> None:
    text = report([stored(row(cell_id="old", dsc=0.1), row(cell_id="new", dsc=0.3, minute=1))])
    assert "1 of them are of a former version" in text


def test_stores_are_read_together_one_row_a_key() -> None:
    stores = [stored(row(dsc=0.1 + minute / 10, minute=minute)) for minute in range(2)]
    (found,) = pipe_tables(report(stores, format="markdown"))
    assert found[2][2:4] == ["1", "20.0"]


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


def test_the_terminal_shows_sixty_rows_of_a_table_and_other_formats_all() -> None:
    """81 rows: clean, and one attack with 80 budgets."""
    long = stored(*(row("vafa", budget=float(budget), dsc=0.5, dsc_clean=0.75) for budget in range(1, 81)))
    lines = report([long]).splitlines()
    shown = [line.split()[1] for line in lines if line.startswith(" vafa")]
    assert shown == 2 * [f"q_max={budget}" for budget in range(1, 60)]  # the table is in two parts, as it is wide
    assert "... and 21 more rows: --format csv (or md) has all of them" in lines
    (found,) = pipe_tables(report([long], format="markdown"))
    assert len(found) == 2 + 81
    assert len(pd.read_csv(io.StringIO(report([long], format="csv")))) == 81
