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

PREPOSITIONS = re.compile(
    "about|above|after|against|along|among|around|as|at|before|behind|below|beside|between|beyond|by|during|for|in|inside"
    "|into|near|of|off|on|onto|out|outside|over|per|since|through|towards?|under|until|up|upon|via|with(in|out)?"
)
"""First words that no function of the package has; `from_x` and `to_x` are conversions, as in NumPy and pandas."""

PARTICIPLES = re.compile(
    r"(?!(embed|exceed|feed|need|proceed|seed|speed)$)\w+ed"
    "|(over|re|un)?(beaten|begun|bent|bought|broken|brought|built|caught|chosen|dealt|done|drawn|driven|fallen|felt"
    "|found|frozen|given|gone|grown|heard|held|hidden|hung|kept|known|laid|led|left|lent|lit|lost|made|meant|met|paid"
    "|risen|said|sent|seen|shaken|shown|sold|sought|spent|spoken|stolen|stood|struck|stuck|swept|taken|taught"
    "|thought|thrown|told|torn|understood|withheld|won|worn|woven|written)"
)
"""Words that alone name no function, only a property. `bound`, `cut`, `put`, `read`, `run`, `set`, `split` and `spread`
are verbs or nouns as well, as are those in the first brackets."""

EXEMPT = {
    "attacks/": "steps of papers, under the papers' words",
    "ops/": "public: attacks of other packages call them",
    "metrics/": "public: other packages call them",
    "audit/checks/": "rows of a table, under the words of its findings",
    "analysis/statistics.py": "terms of statistics",
    "engine/critic.py": "tested by hours of faults, and renamed when it changes",
    "engine/retry.py": "as the critic",
    "results/lease.py": "as the critic",
    "reporting/papers/": "parts of recipes, under the words of their tables",
    "testing.py": "public",
    "core/errors.py:shortened": "public: docs/reference/python.md",
    "core/errors.py:unknown": "public: docs/reference/python.md",
    "data/base.py:chosen": "public: loaders of other packages call it",
    "models/wrapper.py:for_case": "public: docs/how-to/prompts.md",
    "results/store.py:covered": "public: docs/reference/python.md",
    "results/store.py:found": "public: docs/reference/python.md",
}
"""Folders, files and functions below `freqbench` that the rules of functions' names leave out, and why."""


def offenders(path: Path) -> Iterator[str]:
    """Yields `file:line offender` for each docstring, and in tests each name, that breaks a rule."""
    in_tests, inner = "tests" in path.parts, path.as_posix().rpartition("freqbench/")[2]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "-").splitlines()[0]
            if starts_with_clause(first):
                yield f"{path}:{line} {first}"
        for text in attribute_docstrings(node):
            if starts_with_clause(text.value.value.splitlines()[0]):
                yield f"{path}:{text.lineno} {text.value.value.splitlines()[0]}"
        if not in_tests and misnamed(node) and not any(covers(each, f"{inner}:{node.name}") for each in EXEMPT):
            yield f"{path}:{line} {node.name}"
        if in_tests and "found" in bound(node):
            yield f"{path}:{line} found"
        if in_tests and isinstance(node, ast.FunctionDef) and INVERTED.match(node.name):
            yield f"{path}:{line} {node.name}"


def starts_with_clause(sentence: str) -> bool:
    start = sentence.split()[0].strip(",:").lower()
    return bool(CLAUSES.fullmatch(start) or OF_DOCSTRINGS.fullmatch(start))


def misnamed(node: ast.AST) -> bool:
    """True for a function with a preposition first, or one participle alone if it is no property."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("__"):
        return False
    is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
    first, *more = node.name.strip("_").split("_")
    return bool(PREPOSITIONS.fullmatch(first) or (not more and not is_property and PARTICIPLES.fullmatch(first)))


def covers(exemption: str, place: str) -> bool:
    """True if an entry of EXEMPT is this function, `PATH:NAME` below the package, or its file or folder."""
    return place == exemption or (":" not in exemption and place.startswith(exemption))


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
