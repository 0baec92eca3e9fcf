"""docs/architecture.md says what the package's folders and imports are."""

import ast
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from architecture import DOCUMENT, redrawn, rooms

PACKAGE = DOCUMENT.parents[1] / "freqbench"

pytestmark = pytest.mark.repository
TEXT = DOCUMENT.read_text()
NAMED = sorted({name for name in re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", TEXT) if "*" not in name})


def test_the_picture_is_that_of_the_imports() -> None:
    assert redrawn(TEXT) == TEXT, "run: python tests/architecture.py"


def test_the_table_has_every_room() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == set(rooms())


def test_the_document_names_existing_paths() -> None:
    folders = [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]
    assert [name for name in NAMED if not any((folder / name).exists() for folder in folders)] == []


def test_a_room_has_a_dozen_entries_and_some_at_most() -> None:
    def entries(folder: Path) -> int:
        named = [path for path in folder.iterdir() if not path.name.startswith("__")]
        return sum(path.suffix == ".py" or (path / "__init__.py").exists() for path in named)

    assert {path.name for path in [PACKAGE, *PACKAGE.rglob("*")] if path.is_dir() and entries(path) > 19} <= {"attacks"}


def test_a_class_name_stands_for_one_class() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    nodes = chain.from_iterable(map(ast.walk, trees))
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []
