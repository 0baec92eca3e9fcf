"""Docstrings begin with a verb or a noun, not with a clause."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "freqbench"
CLAUSES = {"What", "Whether", "How", "Of", "As", "Where", "Those", "Which"} | {
    "With",
    "By",
    "No",
    "Nothing",
    "Why",
    "In",
    "That",
    "Whose",
}


def clauses(source: str) -> Iterator[str]:
    """Yields the first line of each docstring that begins with a clause."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "-").splitlines()[0]
            if first.split()[0].strip(",:") in CLAUSES:
                yield first


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.iterdir() if path.is_dir()))
def test_no_docstring_begins_with_a_clause(room: str) -> None:
    paths = (PACKAGE / room).rglob("*.py")
    assert [f"{path.name}: {first}" for path in paths for first in clauses(path.read_text(encoding="utf-8"))] == []


def test_a_clause_is_seen() -> None:
    source = '"""Rooms."""\nclass A:\n    """What it is."""\n    def f(self):\n        """Of a room, the name."""\n'
    assert list(clauses(source)) == ["What it is.", "Of a room, the name."]
