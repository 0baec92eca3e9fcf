"""Fixtures and options of several tests."""

import fcntl
import gc
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from s3_server import s3, s3_process, s3_root  # noqa: F401 (fixtures)

from freqbench.core import reading

SHARED = Path(os.environ.get("FREQBENCH_SHARED") or Path(__file__).parents[2] / "shared")
ARRAYS = Path(__file__).parent / "golden" / "arrays"
WITH_RAY = (
    *("training/test_distributed", "tools/chaos/test_killed", "engine/test_ray_engine", "tools/chaos/test_driver"),
    *("tools/chaos/test_workers", "tools/chaos/test_fleet", "remote/test_cluster", "security/test_own_ray"),
    *("engine/test_ray_folder", "tools/chaos/test_local_cluster", "tools/chaos/test_submitted"),
)
"""Files of tests that start Ray: a process of its own runs them, as two Rays wait for each other, and as none may fork
afterwards, as loaders of training do."""

WORKSHOP = (
    *("tools/", "security/", "third_party/", "cluster/"),
    *("models/test_rog", "models/test_meshnet", "models/test_brainchop"),
    *("remote/test_cluster", "test_contributing"),
)
"""Tests of the workshop, of real clusters, and of what docs/not-supported.md calls optional, for `.ci/workshop`."""

LIBRARIES = (
    ("networkx", "scipy.stats", "sklearn", "skimage", "ray", "botocore"),
    ("matplotlib.pyplot", "pydicom", "highdicom", "SimpleITK", "networkx", "scipy.stats"),
)
"""Libraries that all processes of tests but the first import at once, every other the same: in a fresh environment all
would compile the same files at the same time."""

PAGES = (
    *("reporting/page/", "reporting/figures/", "reporting/leaderboard/", "reporting/views/", "reporting/render/"),
    *("reporting/test_report", "reporting/test_colors", "reporting/test_convergence"),
    "cli/test_catalogue",
)
"""Tests of what is looked at, many of them in Chromium, for `.ci/pages`."""

hypothesis.settings.register_profile("freqbench", deadline=None, derandomize=True)
hypothesis.settings.load_profile("freqbench")


@pytest.fixture(scope="session", autouse=True)
def no_terminal() -> Iterator[None]:
    """Output is as wide as in a pipe: xdist gives its workers a width of 80."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_volumes_kept() -> Iterator[None]:
    """Keeps tests, and processes that they start, from the user's cache of preprocessed volumes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREQBENCH_CACHE_GB", "0")
        yield


@pytest.fixture(scope="session", autouse=True)
def no_fsync(pytestconfig: pytest.Config) -> Iterator[None]:
    """Looks at a file's handle alone where no speed is measured: waiting for the disk would be much of the time."""
    with pytest.MonkeyPatch.context() as patch:
        if is_of_ci(pytestconfig):
            patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """A test that draws without a generator of its own draws the same, whatever ran before it in its process."""
    random.seed(0)
    if torch := sys.modules.get("torch"):  # loaded later, it begins with a seed of its own, which is always the same
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` also walks the stack, for GPUs not yet started


@pytest.fixture(autouse=True)
def nothing_read() -> Iterator[None]:
    """Files that the code of one test opens are none of the next one's, which is another user's process."""
    yield
    reading.opened.clear()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, which keeps volumes too."""
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "1")
    return tmp_path / "cache"


@pytest.fixture
def trusted() -> Iterator[None]:
    from freqbench.core.plugins import trusting

    with trusting():
        yield


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of all tests of a process."""
    from page_rows import browser

    with browser() as opened:
        yield opened


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command's words to its exit code, stdout and stderr."""
    import command_line

    return partial(command_line.bench, capsys)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder shared/ with real volumes beside the checkout (or FREQBENCH_SHARED)."""
    if not SHARED.is_dir():
        pytest.skip("the folder shared/ with real volumes is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def arrays() -> Path:
    """The folder of reference arrays that the repository carries."""
    return ARRAYS


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def processor(request: pytest.FixtureRequest) -> Any:
    """The device of a test whose bounds hold on each: the CPU, and under `-m gpu` a GPU that does not round to TF32."""
    import torch  # not before `pytest_configure` has said how many threads it takes

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    # PyTorch's default for convolutions, which networks of freqbench switch off and bare modules do not.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(request.param)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """Path of a file of reference arrays by its name."""
    return lambda name: ARRAYS / f"{name}.npz"


def finished(factory: pytest.TempPathFactory, name: str, content: Mapping[str, Any]) -> Path:
    """Returns the store of a job, `out` beside its `job.yaml`; the first process that asks for it runs the job."""
    from tiny_job import execute, write

    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            started = folder.with_suffix(".started")
            summary = execute(content, started / "out")
            assert summary.num_new > summary.num_failed == 0
            write(started, content)
            started.rename(folder)
    return folder / "out"


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of one record: a model, an attack, a case of 24x20x16 voxels, its volumes saved. Only read."""
    from tiny_job import small

    serial = {"workers": 1, "threads": 1}
    return finished(tmp_path_factory, "small", small(metrics=["dsc"], save_adversarial="nifti", resources=serial))


@pytest.fixture(scope="session")
def grid_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of 16 records: two models, attacks and cases, nearly all metrics, volumes saved. Only read."""
    from tiny_job import GRID

    return finished(tmp_path_factory, "grid", GRID)


@pytest.fixture
def small_copy(small_store: Path, tmp_path: Path) -> Path:
    """Copy of the small store to spoil, `out` in the test's folder, beside its job."""
    return Path(shutil.copytree(small_store.parent, tmp_path, dirs_exist_ok=True)) / "out"


@pytest.fixture
def grid_copy(grid_store: Path, tmp_path: Path) -> Path:
    """Copy of the grid's store to spoil, `out` in the test's folder, beside its job."""
    return Path(shutil.copytree(grid_store.parent, tmp_path, dirs_exist_ok=True)) / "out"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="files, and tests in a file, in a random order")


def file_markers(path: Path) -> set[str]:
    """Returns the markers that all tests of a file have by the tables above."""
    name = os.path.relpath(path, Path(__file__).parent).removesuffix(".py")
    files = {"ray": WITH_RAY, "workshop": WORKSHOP, "pages": PAGES}
    return {marker for marker, names in files.items() if name.startswith(names)}


@cache
def may_select(expression: str, had: frozenset[str], lacked: frozenset[str]) -> bool:
    """True if `-m` may select a test of a file whose tests all have some markers and all lack others."""
    names = {*re.findall(r"\w+", expression)} - {"and", "or", "not"}
    open_names = sorted(names - had - lacked)
    known = {name: name in had for name in names}
    return any(
        eval(expression, {}, known | dict(zip(open_names, values, strict=True)))
        for values in product((False, True), repeat=len(open_names))
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of which `-m` selects no test are not imported, unless the command names files: each process would."""
    expression = config.option.markexpr
    if not expression or not collection_path.name.startswith("test_") or config.args != config.getini("testpaths"):
        return None
    had = file_markers(collection_path)
    text = collection_path.read_text("utf-8")
    named = {"integration": "integration" in text or "tiers import quick" in text, "repository": "repository" in text}
    lacked = {"ray", "workshop", "pages"} - had | {name for name, is_named in named.items() if not is_named}
    return None if may_select(expression, frozenset(had), frozenset(lacked)) else True


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests live to the end: garbage is not looked for among them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (seed := config.getoption("--shuffle")) is not None:
        generator = random.Random(seed)
        places = dict[Path, float]()
        items.sort(key=lambda item: (places.setdefault(item.path, generator.random()), generator.random()))


def pytest_itemcollected(item: pytest.Item) -> None:
    for marker in file_markers(item.path):
        item.add_marker(marker)


def pytest_configure(config: pytest.Config) -> None:
    """One thread in each process, those that tests start too: tiny tensors gain nothing from more, and lose much where
    cores are shared. Set before torch is imported; what is measured takes the threads that it finds. Ctrl-C works
    in what a shell started in the background too, where it is ignored otherwise: tests press it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if is_of_ci(config):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for library in LIBRARIES[number % 2] if number else ():
        with suppress(ImportError):
            import_module(library)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Unless `-n` says otherwise one process for single files and for what `-k` or `-m` selects: others start late."""
    is_little = config.option.keyword or any(".py" in argument for argument in config.args)
    if is_little or not (is_default_selection(config) or config.option.markexpr == "integration"):
        return 0
    from freqbench.core.machine import available_cores

    return available_cores() + 1  # as a test waits now and then


def is_of_ci(config: pytest.Config) -> bool:
    """True where the tests of a script of `.ci/` were selected, which measure no speed."""
    return is_default_selection(config) or config.option.markexpr.startswith(("integration", "workshop", "pages"))


def is_default_selection(config: pytest.Config) -> bool:
    """True where no other `-m` was given than that of pyproject.toml."""
    return config.option.markexpr in config.getini("addopts")
