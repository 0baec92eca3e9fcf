"""Status counts the records of the store's own job, and needs little for it."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from tiny_job import execute, expanded, fail_below, small

from freqbench.results import Store
from freqbench.results.status import facts, tables

WORKER = {"worker": 1, "node": "a-node-of-a-long-name-in-a-large-cluster", "units": 3}
CLOCKS = {"load_seconds": 1.0, "device_seconds": 7.0, "idle_seconds": 2.0}
RUN = {"records": 12345, "failed": 0, "warnings": [], "workers": [WORKER | CLOCKS]}
FGSM = {"name": "fgsm", "eps": ["4/255", "8/255", "16/255"]}


def said(out: Path, table: int = 0) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(tables(facts(str(out)))[table])
    return [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in capture.get().splitlines()]


def test_the_status_counts_done_failed_and_missing_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_below(monkeypatch, 0.02)
    execute(small(attacks=[FGSM], metrics=["dsc"]), tmp_path)
    _, wider = expanded(small(attacks=[FGSM, {"name": "bim", "eps": "8/255"}], metrics=["dsc"]))
    Store(str(tmp_path)).write_job({"index": wider.index()})
    assert [row for row in said(tmp_path) if row] == [["fgsm", "a", "2", "1"], ["not done yet", "", "1", ""]]


def test_tables_of_80_columns_have_whole_names_and_times(tmp_path: Path) -> None:
    execute(small(attacks=[{"name": "gn", "std": 0.1}], metrics=["dsc"]), tmp_path)
    run_id = Store(str(tmp_path)).runs()[0]["run_id"]
    Store(str(tmp_path)).write_run(run_id, {**RUN, "status": "interrupted", "heartbeat": "2026-11-28T12:09:57+00:00"})
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(*tables(facts(str(tmp_path))))
    text = capture.get()
    assert "…" not in text
    assert [w for w in (run_id, "interrupted", "11-28 12:09", "warnings", "device share") if w not in text] == []


def test_the_status_shows_load_device_and_idle_time_of_workers(tmp_path: Path) -> None:
    """Runs that go on are shown, else the last one; of many workers those whose devices wait most."""
    execute(small(attacks=[FGSM], metrics=["dsc"]), tmp_path)
    (worker,) = Store(str(tmp_path)).runs()[0]["workers"]
    assert (worker["worker"], worker["units"]) == (1, 3)
    assert worker["load_seconds"] > 0 < worker["device_seconds"]
    assert [row[:1] for row in said(tmp_path, 2) if row] == [["all 1"], ["1"]]
    clocks = {"load_seconds": 1.0, "device_seconds": 7.0, "idle_seconds": 2.0}
    workers = [{"worker": number, "node": f"n{number}", "units": number, **clocks} for number in range(1, 26)]
    workers[20]["idle_seconds"] = 20.0
    Store(str(tmp_path)).write_run("20990101", {"status": "running", "workers": workers})
    rows = [row for row in said(tmp_path, 2) if row]
    assert (rows[0], len(rows)) == (["all 25", "", "25", "175", "68", "65 %"], 1 + 20)
    assert (rows[-1], rows[1]) == (["21", "n21", "1", "7", "20", "25 %"], ["1", "n1", "1", "7", "2", "70 %"])
