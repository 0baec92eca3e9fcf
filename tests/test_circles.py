"""Imports between files of the package go one way: no file needs, by whatever road, a file that needs it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "freqbench"

pytestmark = pytest.mark.repository


def modules() -> dict[str, Path]:
    """The files of the package by their names as modules."""
    parts = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(part for part in each if part != "__init__"): path for path, each in parts.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of modules, or of their members, that a file imports when it runs, within functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        yield from imported(node)


def needs() -> dict[str, set[str]]:
    """The modules of the package that each needs."""
    known = modules()

    def module_of(name: str) -> str:
        return name if name in known else name.rpartition(".")[0]

    return {
        name: {module_of(each) for each in imported(ast.parse(path.read_text(encoding="utf-8")))}
        & known.keys() - {name}
        for name, path in known.items()
    }


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of one circle, empty without any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_two_files_need_each_other() -> None:
    assert circle(needs()) == []
