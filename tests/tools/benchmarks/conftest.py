"""Measurements of benchmarks: one table at the end, and JSON where a path is given."""

import json
import platform
import subprocess
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tabulate import tabulate

THREADS = torch.get_num_threads()  # before a worker sets others


@pytest.fixture
def fast(request: pytest.FixtureRequest) -> bool:
    """True where a test is to show that it runs, and holds no bound."""
    return bool(request.config.getoption("--fast"))


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A worker leaves its number of threads to nobody."""
    yield
    torch.set_num_threads(THREADS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--json", default=None, help="file for what benchmarks of attacks measured")
    parser.addoption("--fast", action="store_true", help="fewer steps, where a benchmark says so")
    parser.addoption("--outcomes", default=None, help="table of each benchmark's outcome: reports/speed/outcomes.csv")


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--outcomes", None)
    if given and not Path(given).absolute().parent.is_dir():
        raise pytest.UsageError(f"--outcomes {given}: expected a file in a folder that is there: make the folder first")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Writes the outcome of a benchmark when it ends. Those of others stay, so that parts may be run one by one."""
    report = yield
    given = item.config.getoption("--outcomes", None)
    if given and item.get_closest_marker("benchmark") and (report.when == "call" or not report.passed):
        row = {
            "benchmark": report.nodeid.rpartition("/")[2],
            "outcome": report.outcome,
            "seconds": round(report.duration),
            "found": call.excinfo.exconly().splitlines()[0][:200] if call.excinfo else None,
            "machine": ", ".join(f"{name} {value}" for name, value in machine().items() if value),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        known = pd.read_csv(given) if Path(given).exists() else pd.DataFrame(columns=list(row))
        rows = pd.concat([known[known["benchmark"] != row["benchmark"]], pd.DataFrame([row])])
        rows.sort_values("benchmark").to_csv(given, index=False)
    return report


@pytest.fixture(scope="session")
def all_measured() -> Iterator[list[dict[str, Any]]]:
    """Rows of the session, printed when it ends."""
    rows: list[dict[str, Any]] = []
    yield rows
    print("\n" + tabulate(rows, headers="keys", floatfmt=".4g", tablefmt="github"))


@pytest.fixture
def measured(request: pytest.FixtureRequest, all_measured: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows to be added to; written when the test ends, beside those that a file has of the same machine."""
    yield all_measured
    if given := request.config.getoption("--json"):
        path = Path(given)
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        known = json.loads(path.read_text()) if path.exists() else {}
        written = updated(known, machine(), [{**row, "date": today} for row in all_measured])
        path.write_text(json.dumps(written, indent=1) + "\n")


def updated(known: dict[str, Any], machine: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Content of a file after rows were measured on a machine."""
    again = {subject(row) for row in rows}
    kept = [row for row in known["rows"] if subject(row) not in again] if known.get("machine") == machine else []
    return {"machine": machine, "rows": kept + rows}


def subject(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("what", "attack", "model", "block", "spectra", "patients"))


def machine() -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "threads": THREADS,
        "cpu": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "driver": driver() if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
    }


def driver() -> str:
    """The version of NVIDIA's, as its own tool says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
