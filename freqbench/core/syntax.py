"""Reads the syntax of a Python file, once for each text: what it does, and what it says of its names."""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from freqbench.core import reading

LONGEST_NAME = 1000  # letters of a text that may name a file
_FILLING = ("append", "add", "update", "setdefault", "pop", "popitem", "extend", "insert", "clear", "remove", "discard")
"""Methods by which code fills a container of its own, as it remembers results."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Syntax:
    """Statements of a Python file about its names, and a digest of what it does."""

    digest: str  # of its syntax without comments, docstrings and annotations
    names: frozenset[str]  # modules that it imports, and its short texts, which may name modules or files
    imports: frozenset[str]  # what may be modules imported with it, not by a function later; as `resolve_name` takes it
    written: frozenset[str]  # names that its functions declare global, and containers that they fill
    defined: frozenset[str]  # its functions and classes without a decorator
    stated: Mapping[str, Any]  # its constants that are bound once, to a number, a text, or a table or list of them


def syntax_of(path: Path) -> Syntax | None:
    """Returns the syntax of a file as its module was imported, or as it is now; None if it is not Python."""
    with suppress(SyntaxError, ValueError, OSError):
        return _parsed(reading.sources.get(str(path)) or path.read_bytes())
    return None


@lru_cache(maxsize=4096)
def _parsed(text: bytes) -> Syntax:
    tree = ast.parse(text)
    nodes = [*ast.walk(tree)]
    for node in nodes:
        _drop_words(node)
    bound = Counter(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    stated = {name: value for name, value in _stated(tree) if bound[name] == 1}
    does = sha256(ast.dump(tree).encode()).hexdigest()
    names = frozenset(_names(nodes))
    imports = frozenset(_imports(tree))
    written = frozenset(_written(nodes))
    defined = frozenset(_defined(tree))
    return Syntax(does, names, imports, written, defined, stated)


def _drop_words(node: ast.AST) -> None:
    """Takes the docstring and the annotations of one node of the syntax; a field of a class keeps its annotation."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        is_documented = ast.get_docstring(node, clean=False) is not None
        node.body = node.body[is_documented:]
    if isinstance(node, _FUNCTIONS):
        node.returns = None
    if isinstance(node, ast.arg):
        node.annotation = None


def _names(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < LONGEST_NAME:
            yield node.value


def _written(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        filled: ast.AST | None = None
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            filled = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FILLING:
            filled = node.func.value
        if isinstance(filled, ast.Name | ast.Attribute):
            yield filled.id if isinstance(filled, ast.Name) else filled.attr


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yields each name that an import outside of functions may make a module; those of a type checker make none."""
    waiting: list[ast.AST] = [*tree.body]
    for node in waiting:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            place = "." * node.level + (node.module or "")
            yield place
            yield from (f"{place}.{alias.name}" if node.module else place + alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif not isinstance(node, _FUNCTIONS):
            waiting += ast.iter_child_nodes(node)


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not node.decorator_list:
            yield node.name


def _stated(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            with suppress(ValueError, TypeError):  # computed
                value = ast.literal_eval(node.value)
                if isinstance(target, ast.Name):
                    yield target.id, value
