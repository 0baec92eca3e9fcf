"""The time left that a run's lines tell, against the truth: the quick start, twice.

The first run knows no pace and estimates by counted operations; the second one remembers. Both must be within the
bounds, on a machine without other load; the truth is the time until the last row is stored. `--fast`: on one case, with
two metrics and without bounds.
"""

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

MOST = {"before 5 %": 3.0, "from 5 % on": 1.5}
LINE = re.compile(r"(\d+) of (\d+) records stored.*, about (\d+) s left")
LAST_S = 10  # of a run, in which a factor says little


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_commands_tell_time_left(
    tmp_path: Path, measured: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    is_fast = request.config.getoption("--fast")
    smaller = ("--limit-cases", "1", "--set", "metrics=[dsc,ssim]") if is_fast else ()
    for what in ("first run", "second run"):
        factors = off(told(tmp_path / what.replace(" ", "-"), tmp_path / "cache", smaller))
        measured.append({"what": f"time left, {what}", **factors})
        if not is_fast:
            assert not any(factors[part] > most for part, most in MOST.items()), (what, factors)


def told(out: Path, cache: Path, smaller: Sequence[str]) -> list[tuple[float, float, int]]:
    """Seconds since the start at which lines came, with the part of the records and the seconds left that they told."""
    job = ("run", "quickstart", "--no-page", *smaller, "--out", str(out))
    environment = os.environ | {"FREQBENCH_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    command = [sys.executable, "-m", "freqbench", *job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        matches = ((time.monotonic() - started, LINE.search(line)) for line in run.stdout)
        lines = [(at, int(match[1]) / int(match[2]), int(match[3])) for at, match in matches if match]
    assert run.returncode == 0
    return lines


def off(lines: list[tuple[float, float, int]]) -> dict[str, float]:
    """Largest factor between what a line told and what was left, before 5 % of the records and after. NaN: no line."""
    end = lines[-1][0]
    factors: dict[str, list[float]] = {part: [] for part in MOST}
    for at, stored, left in lines:
        if end - at >= LAST_S:
            factor = max(left, 1) / (end - at)
            factors["before 5 %" if stored < 0.05 else "from 5 % on"].append(max(factor, 1 / factor))
    return {part: max(each, default=math.nan) for part, each in factors.items()}
