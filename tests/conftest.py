"""What several tests need."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden arrays and real volumes beside the checkout (or FREQBENCH_SHARED)."""
    folder = Path(os.environ.get("FREQBENCH_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip("the folder shared/ with golden arrays and real volumes is not beside the checkout")
    return folder
