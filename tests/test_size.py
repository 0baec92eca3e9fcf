"""Holds what the code says below what it said: a ratchet on deeds, for the package and for its tests.

A *deed* is a call, an operator, a comparison, a branch, a loop, a lookup, a constant, a raise, a return, a definition.
Names, assignments, tuples, types and docstrings are none: a named step costs nothing, a nested one saves nothing, words
and blank lines are free. There is no ceiling on lines.

A change that makes a room smaller lowers its number in the same commit. A change that raises a number says beside it
what the deeds buy, and lowers another room's: the sums only fall. `python tests/test_size.py` prints those of now.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ROOMS: Mapping[str, Mapping[str, int]] = {
    "freqbench": {
        ".": 843,
        "analysis": 3850,
        "api": 2536,
        "attacks": 12475,
        "audit": 10076,
        "cli": 4925,
        "core": 8131,  # own code counts by its files and what they name, as they were read
        "data": 15348,
        "engine": 10545,  # a proof names each class, and what its cases cannot tell apart
        "exchange": 2310,
        "job": 5598,
        "metrics": 3341,
        "models": 15546,
        "ops": 5949,
        "pipelines": 3447,  # what a bundle says of loading is done as MONAI does it, and compared once
        "remote": 763,
        "reporting": 14815,
        "results": 4171,
        "training": 3545,
    },
    "tests": {
        ".": 9963,  # this ratchet
        "analysis": 3799,
        "attacks": 17292,
        "audit": 7542,
        "cli": 6569,
        "cluster": 1063,
        "core": 4998,
        "data": 16698,
        "engine": 20446,
        "exchange": 2811,
        "golden": 1472,
        "job": 6247,
        "metrics": 4509,
        "models": 21159,
        "ops": 5953,
        "pipelines": 5806,
        "remote": 1207,
        "reporting": 20764,
        "results": 3666,
        "security": 4038,
        "third_party": 2312,
        "tools": 11727,
        "toy_package": 155,
        "training": 6099,
    },
}
SUMS: Mapping[str, int] = {"freqbench": 128500, "tests": 190000}  # of the removals; at the end 124,000 and 182,000
FALLING: Mapping[str, Mapping[str, int]] = {  # counts of a tree that may only fall
    "freqbench": {
        "statements above 40 nodes": 55,
        "statements with nested comprehensions": 20,
        "bodies above 300 nodes": 12,
        "assignments of a tuple to a tuple": 2,
        "fmt: skip": 1,
        "functions of more than seven parameters": 0,
    },
    "tests": {
        "statements above 40 nodes": 99,
        "statements with nested comprehensions": 74,
        "bodies above 300 nodes": 20,
        "assignments of a tuple to a tuple": 11,
        "fmt: skip": 14,
        "functions of more than seven parameters": 2,
    },
}
NAMED = 848  # of 1,000 parameters of the package's public functions, those that the docstring names: may only rise
SLACK = 20  # deeds that a room may lie below its number before the number follows

OPERATIONS = (
    ast.Call,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Subscript,
    ast.Attribute,
    ast.Constant,
    ast.Starred,
)
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.comprehension, ast.With, ast.Match, ast.match_case)
ENDS = (ast.Try, ast.ExceptHandler, ast.Raise, ast.Return, ast.Yield, ast.YieldFrom, ast.Assert)
DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.alias)
DEEDS = (*OPERATIONS, *BRANCHES, *ENDS, *DEFINITIONS)
SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr, ast.Raise, ast.Assert, ast.Delete)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
UNFORMATTED = re.compile(r"#\s*fmt:\s*(?:skip|off)\b")


def trees_by_room(tree: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Yields each file of a tree: its room, or `.` for a file beside the rooms, its text and its syntax."""
    for path in sorted((ROOT / tree).rglob("*.py")):
        room, *below = path.relative_to(ROOT / tree).parts
        text = path.read_text("utf-8")
        yield room if below else ".", text, ast.parse(text)


def without_words(tree: ast.Module) -> ast.Module:
    """Takes docstrings and annotations out of a file's syntax."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        if isinstance(node, FUNCTIONS):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name(id="_", ctx=ast.Load())
    return tree


def nodes(tree: ast.AST) -> int:
    """Counts the nodes of a piece of syntax, contexts of names aside."""
    return sum(not isinstance(node, ast.expr_context) for node in ast.walk(tree))


def deeds(tree: ast.Module) -> int:
    """Counts the deeds of a file."""
    return sum(isinstance(node, DEEDS) for node in ast.walk(without_words(tree)))


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names the parameters of a function that a caller gives."""
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [each.arg for each in given if each.arg not in ("self", "cls")]


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields the functions and methods whose name begins with a letter."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and not node.name.startswith("_"):
            yield node


def shapes(tree: ast.Module) -> Iterator[str]:
    """Names each statement and function of a file that is one of the falling counts."""
    for function in public_functions(tree):
        if len(parameters(function)) > 7:
            yield "functions of more than seven parameters"
    for node in ast.walk(without_words(tree)):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Tuple)
            and isinstance(node.targets[0], ast.Tuple)
        ):
            yield "assignments of a tuple to a tuple"
        if isinstance(node, SIMPLE) and nodes(node) > 40:
            yield "statements above 40 nodes"
        if isinstance(node, SIMPLE) and sum(isinstance(each, ast.comprehension) for each in ast.walk(node)) > 1:
            yield "statements with nested comprehensions"
        if isinstance(node, FUNCTIONS) and sum(map(nodes, node.body)) > 300:
            yield "bodies above 300 nodes"


class Measure(NamedTuple):
    """Counts of a tree: deeds of each room, statements and functions of each shape, and named parameters."""

    rooms: Counter[str]
    counts: Counter[str]
    named_per_mille: int


@cache
def measure(tree: str) -> Measure:
    """Measures each file of a tree once."""
    rooms = Counter[str]()
    found = Counter(dict.fromkeys(FALLING[tree], 0))
    named: list[bool] = []
    for room, text, syntax in trees_by_room(tree):
        for node in public_functions(syntax):
            words = set(re.findall(r"\w+", ast.get_docstring(node) or ""))
            named += [name in words for name in parameters(node)]
        rooms[room] += deeds(syntax)
        found.update(shapes(syntax))
        found["fmt: skip"] += len(UNFORMATTED.findall(text))
    return Measure(rooms, found, 1000 * sum(named) // len(named))


@pytest.mark.parametrize("tree", ROOMS)
def test_a_room_does_no_more_than_its_number(tree: str) -> None:
    rooms = measure(tree).rooms
    away = {room: (rooms[room], ROOMS[tree].get(room, 0)) for room in rooms.keys() | ROOMS[tree].keys()}
    assert {room: pair for room, pair in away.items() if not pair[1] - SLACK <= pair[0] <= pair[1]} == {}


@pytest.mark.parametrize("tree", SUMS)
def test_a_tree_does_no_more_than_its_sum(tree: str) -> None:
    assert sum(ROOMS[tree].values()) <= SUMS[tree]


@pytest.mark.parametrize("tree", FALLING)
def test_dense_statements_and_bodies_only_fall(tree: str) -> None:
    assert measure(tree).counts == FALLING[tree]


def test_parameters_that_docstrings_name_only_rise() -> None:
    assert measure("freqbench").named_per_mille == NAMED


def test_a_named_step_costs_no_deed_and_a_pair_saves_none() -> None:
    named = deeds(ast.parse("a = f(x)\nb = g(a)\n"))
    assert deeds(ast.parse("b = g(f(x))\n")) == named
    assert deeds(ast.parse("a, b = f(x), g(y)\n")) == named


def test_words_are_no_deeds() -> None:
    assert deeds(ast.parse('def f(x: int) -> int:\n    """Returns x."""\n    return x\n')) == deeds(
        ast.parse("def f(x): return x\n")
    )


if __name__ == "__main__":
    for each in ROOMS:
        now = measure(each)
        print(each, dict(sorted(now.rooms.items())), now.rooms.total())
        print(dict(now.counts), now.named_per_mille)
