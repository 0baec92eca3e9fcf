"""The shell scripts, as shellcheck reads them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
SCRIPTS = sorted((ROOT / "cluster").rglob("*.sh"))


def findings(script: Path) -> str:
    command = [SHELLCHECK, "--severity=style", "--norc", script]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    assert findings(script) == ""
    assert script.stat().st_mode & 0o111, "is not executable"


def test_the_scripts_are_those_that_people_are_told_of() -> None:
    assert {script.name for script in SCRIPTS} == {"local.sh", "slurm.sh"}
