"""What several tests need."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("FREQBENCH_SHARED") or Path(__file__).parents[2] / "shared")
GUARD = Path(__file__).parent / "golden" / "guard"


@pytest.fixture(scope="session", autouse=True)
def no_volumes_kept() -> Iterator[None]:
    """No test reads or fills the user's cache of preprocessed volumes, nor does a process that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREQBENCH_CACHE_GB", "0")
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden arrays and real volumes beside the checkout (or FREQBENCH_SHARED)."""
    if not SHARED.is_dir():
        pytest.skip("the folder shared/ with golden arrays and real volumes is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """Finds a file of golden arrays by name: in shared/, else among the few that the repository carries."""

    def find(name: str) -> Path:
        for folder in (SHARED / "golden", GUARD):
            if (folder / f"{name}.npz").is_file():
                return folder / f"{name}.npz"
        pytest.skip(f"{name}.npz is only in the folder shared/, which is not beside the checkout")

    return find
