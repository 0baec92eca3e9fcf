"""Commands of docs/how-to/gpu.md on a machine that has torch, but neither Ray nor a network to fetch it from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LACKING = ("ray", "medpy", "SimpleITK", "pylatexenc", "pydicom", "nnunetv2")
LEFT = ("reports/", "freqbench/models/zoo/hippocampus/")  # what docs/how-to/gpu.md leaves at home
MOST = 60 * 2**20  # of bytes that are carried to such a machine
WHEELS = 22 * 2**20  # of packages and volumes that it lacks: 20 MiB when they were gathered
ONE_RECORD = (
    "attacks=[{name: gn, std: 8/255}]",
    "models=[{name: unet, checkpoint: 'zoo://phantom/unet'}]",
    "metrics=[dsc]",
    "save_only=[]",
    "save_adversarial=none",
)


def carried_files() -> list[str]:
    """Paths of the files that a sparse checkout keeps."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listing.split("\0") if name and not name.startswith(LEFT)]


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as such a machine gets it."""
    root = tmp_path_factory.mktemp("carried")
    for name in carried_files():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    return root


@pytest.fixture
def lacking(tmp_path: Path, carried: Path) -> dict[str, str]:
    """An environment whose Python lacks packages."""
    for name in LACKING:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('hidden', name={name!r})\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(carried)))}


def output(environment: dict[str, str], root: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.integration
def test_a_job_runs_without_ray_and_tables(lacking: dict[str, str], carried: Path, tmp_path: Path) -> None:
    changes = [word for change in ONE_RECORD for word in ("--set", change)]
    run = ("bench.py", "run", "jobs/quickstart.yaml", "--engine", "serial", "--no-page", "--limit-cases", "1")
    assert "unet" in output(lacking, carried, *run, "--out", str(tmp_path / "store"), *changes)
    assert list((tmp_path / "store" / "records").glob("**/*.parquet"))


@pytest.mark.integration
def test_all_tests_of_a_gpu_are_found_without_ray_and_tables(lacking: dict[str, str], carried: Path) -> None:
    plain = ("-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "--collect-only", "-q")
    listing = output(
        lacking,
        carried,
        "-m",
        "pytest",
        *plain,
        "-m",
        "gpu or benchmark",
        "tests/tools/gpu",
        "tests/golden",
        "tests/tools/benchmarks/test_attack_speed.py",
        "tests/tools/benchmarks/test_unit_speed.py",
    )
    assert "cuda]" in listing


@pytest.mark.repository
def test_files_for_such_a_machine_stay_small() -> None:
    size = sum(os.lstat(ROOT / name).st_size for name in carried_files())
    assert size + WHEELS <= MOST
    sparse = " ".join(f"'!/{folder}*'" for folder in LEFT)
    assert f"git sparse-checkout set --no-cone '/*' {sparse}" in (ROOT / "docs/how-to/gpu.md").read_text()
