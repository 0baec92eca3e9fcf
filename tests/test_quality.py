"""Style, types and architecture hold: each tool as it would be called by hand."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent

TOOLS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "imports": ["lint-imports"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_finds_nothing(tool: str) -> None:
    command, *arguments = TOOLS[tool]
    result = subprocess.run([SCRIPTS / command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_importing_freqbench_is_light() -> None:
    """`import freqbench` with torch takes no part of monai, pandas or ray along."""
    code = "import sys, torch, freqbench, freqbench.attacks; print(*{'monai', 'pandas', 'ray'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_version_is_the_installed_one() -> None:
    import freqbench

    assert freqbench.__version__ == importlib.metadata.version("freqbench")
