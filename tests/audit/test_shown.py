"""The audit is shown in every report, as a table of its own, and on the page."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from audit.planted import gradients, healthy, rows
from reporting.handmade import job_of

from freqbench.audit import probe_files
from freqbench.audit.checks import audited, gathered
from freqbench.audit.probe_files import GRADIENTS, Gradients, root_of, write
from freqbench.core.errors import UserError
from freqbench.reporting.audit import LINES, first_screen
from freqbench.reporting.page import facts
from freqbench.reporting.report import report
from freqbench.results import KEY, Store


def stored(root: str, rows: list[dict[str, Any]]) -> Store:
    store = Store(root)
    store.writer("run0", interval_s=0).add(rows, [[]] * len(rows))
    store.write_job(job_of(rows))
    return store


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(str(tmp_path_factory.mktemp("flagged") / "out"), healthy(but={"twice": {"left": 45}}))


def test_a_report_says_what_is_flagged_and_why(flagged: Store) -> None:
    keys = {tuple(row[name] for name in KEY) for row in flagged.records().to_pylist()}
    text = " ".join(report([flagged], keys).split())
    assert "flagged (6 of 12)" in text
    assert "it does not hold that a larger budget hurts more (1 sign of masked gradients in " in text
    assert "a larger budget hurts more" in text
    assert "points more DSC" in text


@pytest.mark.integration
def test_whole_audit_is_a_table_a_csv_and_json_without_nan(flagged: Store) -> None:
    for format in ("terminal", "latex"):
        text = report([flagged], None, format, "audit")
        assert "violated" in text
        assert "not checked" in text
        assert format != "terminal" or max(map(len, text.splitlines())) <= 110
    frame = pd.read_csv(io.StringIO(report([flagged], None, "csv", "audit")))
    budget = frame[frame["check"] == "budget"].iloc[0]
    assert (budget["verdict"], budget["cases"]) == ("violated", 6)
    assert budget["low"] < budget["difference"] < budget["high"]
    part = facts.audit(audited(gathered([flagged])))
    names = {f"{name}: {should}" for name, should in zip(frame["check"], frame["should"], strict=True)}
    assert names == {each["should"] for each in part["findings"]}  # one name everywhere
    assert part["models"][0]["verdict"] == "flagged"
    assert {"check", "should", "dataset", "model", "subject", "verdict", "sentence"} == {*part["findings"][0]}


def test_first_screen_has_gravest_findings_in_twenty_lines(flagged: Store) -> None:
    findings = audited(gathered([flagged]))
    many = [replace(each, model=f"{each.model}{number}") for number in range(9) for each in findings]
    lines = first_screen(tuple(many), ["freqbench audit out --run " * 4] * 3, 80).splitlines()
    assert LINES - 6 <= len(lines) + 3 <= LINES  # each of the commands takes two lines
    assert max(map(len, lines[:-3])) <= 80
    assert lines[1] == "m0 on phantom  flagged: budget; 6 of 12 checks hold, 4 not made"
    assert lines[9].startswith("budget: a larger budget hurts more. Violated for 9 networks; on m0: ")


def test_rows_and_gradients_of_the_audit_s_own_store_count(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    store = stored(out, rows("pgd"))
    before = {each.check: each.verdict for each in audited(gathered([store]))}
    stored(root_of(out), rows("twice", left=45))
    write(out, gradients(zero_share=0.9))
    after = {each.check: each.verdict for each in audited(gathered([store]))}
    assert (before["budget"], before["zero_gradients"]) == ("not checked", "not checked")
    assert (after["budget"], after["zero_gradients"]) == ("violated", "violated")


def test_a_file_of_gradients_that_is_none_is_one_line(tmp_path: Path) -> None:
    out = str(tmp_path)
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / GRADIENTS).write_text('{"eps": 1, "windows": "many"}')
    with pytest.raises(UserError, match=r"gradients.json: "):
        probe_files.read(out, Gradients)
