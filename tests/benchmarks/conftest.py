"""Where benchmarks put what they measured: one table at the end, and JSON where a path is given."""

import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from tabulate import tabulate


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--json", default=None, help="file for what benchmarks of attacks measured")
    parser.addoption("--fast", action="store_true", help="fewer steps, where a benchmark says so")


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """Rows to be added to; printed and written when the session ends."""
    rows: list[dict[str, Any]] = []
    yield rows
    print("\n" + tabulate(rows, headers="keys", floatfmt=".4g", tablefmt="github"))
    path = request.config.getoption("--json")
    if path:
        machine = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cpu": platform.processor() or platform.machine(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        Path(path).write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
