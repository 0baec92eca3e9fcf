"""Every file of arrays/ is whole, and tested or left out by name with the reason (models/ has tests of its own)."""

import hashlib
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "freqbench"

pytestmark = pytest.mark.repository
PUBLISHED = {
    "data/splits/acdc_140_20.json": "4b5ec50eacfba92e1db6d26b1b7a1ff0e784f255f9d1bbe7790d081ec9d8d049",
    "data/splits/synapse_18_12.json": "a52387997744040a90b93123b923568be3f51657d395c862064230c8bcabfbc5",
    "reporting/papers/recipes/papers.csv": "1ce5ea8fe7984b2213688805b80710a10645787c5827b5378e56fe754bbb0619",
}
LEFT_OUT = {
    "inputs": "no attack: the network and the volumes of all files",
    "oracles": "no attack: building blocks, tested in tests/ops",
}


def test_every_file_is_tested_once_or_left_out_with_a_reason(arrays: Path) -> None:
    modules = {path.stem for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).stem}
    covered = [name for module in sorted(modules) for name in importlib.import_module(f"golden.{module}").FILES]
    assert sorted([*covered, *LEFT_OUT]) == sorted(path.stem for path in arrays.glob("*.npz"))


def test_files_are_those_of_the_list_of_checksums(arrays: Path) -> None:
    listed = dict(reversed(line.split("  ")) for line in (arrays / "SHA256SUMS").read_text().splitlines())
    files = {path for path in arrays.rglob("*.*") if path.name != "README.md"}
    assert {str(path.relative_to(arrays)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == listed


@pytest.mark.parametrize("name", PUBLISHED)
def test_splits_and_numbers_of_the_papers_are_those_published(name: str) -> None:
    assert hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest() == PUBLISHED[name]
