"""The architecture holds, and importing the package is light."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path


def test_imports_point_downward() -> None:
    """As `lint-imports` says; the layers are in pyproject.toml."""
    command = [Path(sys.executable).with_name("lint-imports")]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_importing_freqbench_is_light() -> None:
    """With torch and the rooms that compute it takes no large package along that it may not need."""
    heavy = {"monai", "pandas", "ray", "lpips", "skimage", "torchvision", "medpy", "nibabel", "scipy"}
    rooms = "freqbench.attacks, freqbench.metrics, freqbench.models"
    code = f"import sys, torch, freqbench, {rooms}; print(*{heavy!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_version_is_the_installed_one() -> None:
    import freqbench

    assert freqbench.__version__ == importlib.metadata.version("freqbench")
