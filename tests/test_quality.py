"""Importing the package is light, and the project's files say the same."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import freqbench

ROOT = Path(__file__).parents[1]

UNUSED = "monai pandas ray lpips skimage torchvision medpy nibabel SimpleITK pydicom highdicom scipy"
TABLES = "attacks models datasets metrics jobs"
LISTS = f"for words in [*{TABLES!r}.split(), 'attacks vafa']: app(['list', *words.split()], **plain)"
STEPS = {
    "import freqbench as fb; dir(fb)": "torch numpy pandas pydantic monai ray",
    "from freqbench.cli import app; plain = {'standalone_mode': False}": "torch monai numpy ray pandas",
    "app(['init', '--help'], **plain)": "torch monai numpy ray pandas",
    "import freqbench.results.status": "torch pandas",
    LISTS: "torch",
    "import torch, freqbench.attacks, freqbench.data, freqbench.metrics, freqbench.models": UNUSED,
    "import freqbench.reporting.report": "monai PIL scipy.ndimage scipy.optimize scipy.spatial scipy.stats matplotlib",
    "import freqbench.training.link, freqbench.engine.run, freqbench.audit.reproduce": "monai medpy",
}
"""Steps of one process, and the packages that none of them may take along."""


@pytest.mark.integration
def test_nothing_takes_large_package_along_that_it_may_not_need() -> None:
    code = "import json, sys\nfor step, large in json.loads(sys.argv[1]).items():\n"
    code += "    exec(step)\n    print({*large.split()} & {*sys.modules}, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code, json.dumps(STEPS)], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines() == ["set()"] * len(STEPS)


@pytest.mark.repository
def test_version_is_latest_of_changelog_and_one_to_cite() -> None:
    released = re.findall(r"^## \[(\d[\w.]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    assert freqbench.__version__ == released[0] == cited


@pytest.mark.repository
def test_every_hard_dependency_says_who_needs_it_and_is_imported() -> None:
    """Others import einops (networks of MONAI) and tabulate (pandas); of lpips a file of weights is read."""
    listed = re.search(r"^dependencies = \[.*?\n(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    lines = re.findall(r'^    "([\w-]+)(\S*)",(  # \w.*)?$', listed[1] if listed else "", re.MULTILINE)
    assert len(lines) > 20
    assert [name for name, _, reason in lines if not reason] == []
    assert {name for name, bounds, _ in lines if "<" in bounds} == {"monai", "torch"}
    modules = {"pillow": "PIL", "PyYAML": "yaml", "scikit-image": "skimage", "Jinja2": "jinja2"}
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "freqbench").rglob("*.py"))
    names = {name: modules.get(name, name.replace("-", "_")) for name, *_ in lines}
    assert {name for name, module in names.items() if not re.search(rf"^ *(import|from) {module}\b", code, re.M)} == {
        *("einops", "lpips", "tabulate")
    }


@pytest.mark.repository
def test_floors_are_the_oldest_releases_that_the_workflow_runs() -> None:
    files = (ROOT / "pyproject.toml", ROOT / ".github/workflows/ci.yml")
    place = r"([\w-]+)(?:\[\w+\])?"
    of = (re.findall(place + sign + r"([\d.]+)", f.read_text()) for f, sign in zip(files, (">=", "=="), strict=True))
    floors, pins = ({(name, Version(number)) for name, number in each} for each in of)
    assert {name for name, _ in pins} >= {"numpy", "pandas", "scipy", "torch"}
    assert {floor for floor in floors if floor[0] in dict(pins)} == pins


@pytest.mark.slow  # CI's job `package` builds, checks, installs and runs the wheel at each push
def test_wheel_and_sdist_carry_what_runs_and_are_fit_for_index(tmp_path: Path) -> None:
    """Made as `python -m build` makes them of a fresh checkout, the wheel from the sdist, with the setuptools here."""
    tree = checkout(tmp_path / "tree")
    made = tmp_path / "made"
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", made, tree])
    run([sys.executable, "-m", "twine", "check", "--strict", *made.iterdir()])
    (wheel,) = made.glob(f"freqbench-{freqbench.__version__}-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"freqbench/{path.relative_to(ROOT)}" for path in (ROOT / "jobs").rglob("*.yaml")} <= names
    assert {"freqbench/testing.py", "freqbench/models/zoo/phantom/unet.safetensors"} <= names
    assert not [name for name in names if name.startswith(("tests", "docs", "jobs"))]


def checkout(tree: Path) -> Path:
    """A copy of the files that an installation is made of."""
    for folder in ("freqbench", "jobs"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / file, tree)
    return tree


def run(command: Sequence[str | Path]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
