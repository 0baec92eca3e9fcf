"""The time left that a run's lines tell, against the truth: the quick start on one case, twice.

The first run knows no pace and estimates by counted operations; the second one remembers. `--fast`: without bounds.
"""

import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

MOST = {"before 5 %": 3.0, "from 5 % on": 1.5}
LINE = re.compile(r"(\d+) s, about (\d+) s left")
LAST_S = 10  # of a run, in which a factor says little


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_a_remembered_pace_tells_the_time_left(
    tmp_path: Path, measured: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    for what in ("first run", "second run"):
        factors = off(told(tmp_path / what.replace(" ", "-"), tmp_path / "cache"))
        measured.append({"what": f"time left, {what}", **factors})
    if not request.config.getoption("--fast"):
        assert all(factors[part] <= most for part, most in MOST.items()), factors


def told(out: Path, cache: Path) -> list[tuple[float, int]]:
    """Seconds since the start at which lines came, with the seconds left that they told; 0 at the end."""
    job = ("run", "quickstart", "--limit-cases", "1", "--no-page", "--set", "metrics=[dsc,ssim]", "--out", str(out))
    environment = os.environ | {"FREQBENCH_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    command = [sys.executable, "-m", "freqbench", *job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        said = ((time.monotonic() - started, LINE.search(line)) for line in run.stdout)
        lines = [(at, int(found[2])) for at, found in said if found]
    assert run.returncode == 0
    return lines


def off(lines: list[tuple[float, int]]) -> dict[str, float]:
    """Largest factor between what was told and what was left, before 5 % of the run and after; a line holds until the
    next."""
    end = lines[-1][0]
    factors = dict.fromkeys(MOST, 1.0)
    for (at, left), (until, _) in pairwise(lines):
        for then in (at, min(until, end - LAST_S)):
            if then >= at and end - then >= LAST_S:
                part = "before 5 %" if then < 0.05 * end else "from 5 % on"
                factor = max(left, 1) / (end - then)
                factors[part] = max(factors[part], factor, 1 / factor)
    return factors
