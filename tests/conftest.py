"""What several tests need."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import s3, s3_process, s3_root  # noqa: F401 (fixtures)
from xdist.scheduler import LoadFileScheduling

WITH_RAY = [
    "tests/engine/test_ray_engine.py",
    "tests/cli/test_cli.py",
    "tests/remote/test_cluster.py",
    "tests/engine/test_saved_volumes.py",
    "tests/engine/test_driver_faults.py",
    "tests/security/test_own_ray.py",
]
"""Files whose tests start a Ray: one process runs them all, as two at once would starve where deadlines are tested."""
FIRST = [*WITH_RAY, "tests/test_quality.py", "tests/engine/test_kill.py"]
"""Files that take longest: begun last, one of them would leave all other processes without work."""

SHARED = Path(os.environ.get("FREQBENCH_SHARED") or Path(__file__).parents[2] / "shared")
GUARD = Path(__file__).parent / "golden" / "guard"


@pytest.fixture(scope="session", autouse=True)
def no_volumes_kept() -> Iterator[None]:
    """No test reads or fills the user's cache of preprocessed volumes, nor does a process that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREQBENCH_CACHE_GB", "0")
        yield


@pytest.fixture
def trusted() -> Iterator[None]:
    """Third-party code may run."""
    from freqbench.core.plugins import trusting

    with trusting():
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


def pytest_configure(config: pytest.Config) -> None:
    """One thread in each process, those that tests start too: tiny tensors gain nothing from more, and lose much where
    cores are shared. Set before torch is imported; what is measured takes the threads that it finds."""
    if is_default_selection(config):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Unless `-n` says otherwise, one process for single files and for what `-k` or `-m` selects.

    A file is done before other processes have started, and what is measured, or killed for minutes, wants the machine
    and the terminal to itself.
    """
    is_little = config.option.keyword or any(".py" in argument for argument in config.args)
    return 0 if is_little or not is_default_selection(config) else None


def is_default_selection(config: pytest.Config) -> bool:
    """Whether no other `-m` was given than that of pyproject.toml."""
    return config.option.markexpr in config.getini("addopts")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {file: number for number, file in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::")[0], len(rank)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return Files(config, log) if config.getoption("dist") == "loadfile" else None


class Files(LoadFileScheduling):
    """Hands out files; those of WITH_RAY as if they were one. The mark `xdist_group` has no effect in pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "those with a Ray" if file in WITH_RAY else file
