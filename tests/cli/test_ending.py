"""How a run ends: in short, with its page and what to do next; and how the page is opened."""

import stat
from pathlib import Path

import pytest
from called import Bench
from tiny import job, small, write

from freqbench.cli import report
from freqbench.core import storage

BOXES = {chr(code) for code in range(0x2500, 0x2580)}


def test_a_run_ends_with_a_table_the_page_and_three_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    code, said, _ = bench("run", write(tmp_path, job(metrics=["dsc"])), "--out", "my out", "--engine", "serial")
    assert code == 0
    lines = said[said.index("phantom: DSC under white-box attacks") :].splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert not BOXES & {*said}
    assert any(line.startswith("phantom: transfer of ") for line in lines)
    assert "Audit" not in said
    assert lines[-4].startswith("written: my out/report.html (")
    assert lines[-3:] == [
        "next: freqbench open 'my out'",
        "      freqbench report 'my out'",
        "      freqbench audit 'my out'",
    ]
    assert "freqbench-data" in (tmp_path / "my out" / "report.html").read_text()


def test_no_page_leaves_it_and_one_that_cannot_be_written_is_a_line(tmp_path: Path, bench: Bench) -> None:
    out = tmp_path / "out"
    command = ("run", write(tmp_path, small(metrics=["dsc"])), "--out", str(out), "--engine", "serial")
    assert bench(*command, "--no-page")[0] == 0
    assert not (out / "report.html").exists()
    (out / "report.html").write_text("not freqbench's")
    code, said, _ = bench(*command)
    assert code == 0
    assert said.splitlines()[-4].startswith(f"no page: {out}/report.html: expected no file or one that freqbench wrote")
    assert (out / "report.html").read_text() == "not freqbench's"


def test_a_defect_of_the_page_is_none_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr("freqbench.reporting.page.build_page", lambda *_: 1 / 0)
    command = ("run", write(tmp_path, small(metrics=["dsc"])), "--out", str(tmp_path / "out"), "--engine", "serial")
    code, said, err = bench(*command)
    assert (code, err) == (0, "")
    assert "no page: division by zero\n" in said


def test_the_page_of_a_uri_is_opened_from_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """The browser is a script that keeps what it is given."""
    out, seen, browser = f"memory://{tmp_path.name}-ending", tmp_path / "seen", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BROWSER", str(browser))
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    code, _, err = bench("open", out)
    assert (code, f"{out}/report.html: expected a page, found none" in err) == (2, True)
    path = write(tmp_path, small(metrics=["dsc"]))
    assert bench("run", path, "--out", out, "--engine", "serial")[0] == 0
    code, said, _ = bench("open", out)
    assert code == 0
    file = Path(said.strip().removeprefix("opened: "))
    assert seen.read_text().strip() == file.as_uri()
    assert file.read_bytes() == storage.read_bytes(f"{out}/report.html")


def test_without_a_display_the_place_of_the_page_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(report.sys, "platform", "linux")
    (tmp_path / "report.html").write_text("page")
    code, said, _ = bench("open", str(tmp_path))
    assert (code, said) == (0, f"no browser to open it in: {tmp_path / 'report.html'}\n")
