"""Rules of names and docstrings that a parser can hold: `python tests/words.py FOLDER...` lists what breaks them."""

import ast
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

CLAUSES = re.compile(
    "and|but|how(ever)?|if|it|nor|so|that|there|they|those|what(ever)?|when|where(ver)?|whether|which(ever)?|while"
    "|who(ever|se)?|why"
)
"""Words that begin neither a docstring nor a test's name."""

OF_DOCSTRINGS = re.compile("as|by|in|nothing|no|of|with")
OF_NAMES = re.compile(
    "above|after|against|among|as|at|before|behind|below|beside|between|beyond|by|for|from|here|in|its?|of|only_what|on"
    "|since|their|these|this|through|to(wards)?|under|until|with(in|out)?"
)
"""More words that begin no name of a test, which says its subject first, and then the fact."""

INVERTED = re.compile(f"test_({CLAUSES.pattern}|{OF_NAMES.pattern})_")


def offenders(path: Path) -> Iterator[str]:
    """Yields `file:line offender` for each docstring, and in tests each name, that breaks a rule."""
    in_tests = "tests" in path.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "-").splitlines()[0]
            if starts_with_clause(first):
                yield f"{path}:{line} {first}"
        for text in attribute_docstrings(node):
            if starts_with_clause(text.value.value.splitlines()[0]):
                yield f"{path}:{text.lineno} {text.value.value.splitlines()[0]}"
        if in_tests and "found" in bound(node):
            yield f"{path}:{line} found"
        if in_tests and isinstance(node, ast.FunctionDef) and INVERTED.match(node.name):
            yield f"{path}:{line} {node.name}"


def starts_with_clause(sentence: str) -> bool:
    start = sentence.split()[0].strip(",:").lower()
    return bool(CLAUSES.fullmatch(start) or OF_DOCSTRINGS.fullmatch(start))


def attribute_docstrings(node: ast.AST) -> Iterator[ast.Expr]:
    """Yields the texts that stand below assignments of a module or class."""
    body = node.body if isinstance(node, ast.Module | ast.ClassDef) else []
    for before, statement in pairwise(body):
        match statement:
            case ast.Expr(value=ast.Constant(value=str())) if isinstance(before, ast.Assign | ast.AnnAssign):
                yield statement


def bound(node: ast.AST) -> Iterator[str]:
    """Yields the names that a node itself binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(asname=str(name)):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            yield name


if __name__ == "__main__":
    paths = sorted(path for folder in sys.argv[1:] for path in Path(folder).rglob("*.py"))
    lines = [line for path in paths for line in offenders(path)]
    print(*lines, sep="\n")
    sys.exit(bool(lines))
