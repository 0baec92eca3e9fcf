"""`local.sh`: mistakes are one line. `tests/tools/chaos` starts real nodes by it."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest


def local(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """One call of the script with the Python of these tests."""
    environment = os.environ | {"PYTHON": sys.executable} | variables
    command = [str(each) for each in (Path(__file__).parents[2] / "cluster" / "local.sh", *arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_a_folder_with_other_files_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = local("up", "--folder", tmp_path)
    assert result.returncode == 2
    assert "expected an empty folder, got one with files" in result.stderr
    assert local("down", "--folder", tmp_path).returncode == 0
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("arguments", [["up", "--nodes", "many"], ["up", "--nodes", "0"], ["fly"]])
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    result = local(*arguments, "--folder", tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(r"error: .*\n", result.stderr)


def test_a_python_without_ray_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    folder = tmp_path / "folder"
    venv.create(bare)
    result = local("up", "--folder", folder, PYTHON=str(bare / "bin" / "python"))
    assert result.returncode == 2
    assert re.fullmatch(r"error: expected Ray in .*, got No module named 'ray': .*\n", result.stderr)
    assert not list(folder.iterdir())
