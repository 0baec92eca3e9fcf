"""Measures what the tests catch: makes one small change at a time in a copy of the repository and runs the tests.

    python tests/mutation/run.py sample --tree OLD_CHECKOUT     writes sample.json beside this file
    python tests/mutation/run.py run --out results.json         runs the whole sample on this checkout, or `--only 3 7`

A mutant is known by its function and the text of its statement, so that it is found again where files have moved.
The options of pytest can be given more by PYTEST_ADDOPTS, such as `-m "integration or not integration"`.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT, SAMPLE = Path(__file__).parents[2], Path(__file__).with_name("sample.json")
COUNTS = {"attacks": 42, "ops": 30, "metrics": 22, "results": 26, "engine": 34, "reporting": 36}
TESTS = {
    "attacks": ["attacks", "golden", "evaluate"],
    "ops": ["ops", "golden", "attacks", "data", "metrics"],
    "metrics": ["metrics", "evaluate", "engine"],
    "results": ["results", "security", "engine", "audit"],
    "engine": ["engine", "grid", "job", "audit", "exchange", "remote", "training", "cli"],
    "reporting": ["reporting", "analysis", "audit"],
}
"""The folders of tests that concern a room of the code as it was when the sample was drawn, nearest first."""
SWAPS = {"Add": "-", "Sub": "+", "Mult": "/", "Div": "*", "FloorDiv": "*"}
FLIPS = {"Lt": "<=", "LtE": "<", "Gt": ">=", "GtE": ">", "Eq": "!=", "NotEq": "==", "In": "not in", "NotIn": "in"}
TWINS = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "minimum": "maximum", "maximum": "minimum"}
BOUNDS = {"clamp", "clip", "clamp_", "clip_", "project"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Site(NamedTuple):
    """One statement (of a compound one its header) and the function that it stands in."""

    function: str
    text: str
    nodes: list[ast.AST]


def sites(tree: ast.AST, function: str = "") -> Iterator[Site]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt) and function and not isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Raise)):
            parts = [part for part in ast.iter_child_nodes(node) if not isinstance(part, (ast.stmt, ast.excepthandler))]
            is_header = hasattr(node, "body")
            text = " ".join([type(node).__name__, *map(ast.unparse, parts)]) if is_header else ast.unparse(node)
            yield Site(function, text, [inner for part in parts for inner in expressions(part)])
        if isinstance(node, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield from sites(node, node.name if isinstance(node, FUNCTIONS) else function)


def expressions(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is in it, but for messages and annotations."""
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.expr):
        yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in ("annotation", "msg"):
                yield from expressions(child)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutated(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What may stand in place of an expression: operator and text."""
    text = ast.unparse(node)
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op).__name__ in FLIPS:
            yield "comparison", f"{ast.unparse(left)} {FLIPS[type(op).__name__]} {ast.unparse(right)}"
            yield "negation", f"not ({text})"
        case ast.BinOp(left=left, op=op, right=right) if type(op).__name__ in SWAPS and not is_text(right):
            yield "arithmetic", f"({ast.unparse(left)}) {SWAPS[type(op).__name__]} ({ast.unparse(right)})"
        case ast.Constant(value=value) if type(value) is int:
            yield "off by one", str(value + 1)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "dropped not", ast.unparse(operand)
        case ast.BoolOp():
            yield "negation", f"not ({text})"
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name) as called) if name in TWINS:
            function = ast.unparse(called)
            yield "min and max", function.removesuffix(name) + TWINS[name] + text.removeprefix(function)
        case ast.Call(func=ast.Attribute(value=value, attr=name), args=arguments) if name in BOUNDS:
            is_function = name == "project" or ast.unparse(value) in ("torch", "np")
            yield "no bound", ast.unparse(arguments[0] if is_function else value)
        case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in BOUNDS:
            yield "no bound", ast.unparse(first)


def draw(tree: Path) -> list[dict[str, str | int]]:
    """Mutants in equal shares of the operators, as far as a room has them."""
    generator, sample = random.Random(0), []
    for room, count in COUNTS.items():
        by_operator: dict[str, list[dict[str, str | int]]] = {}
        for path in sorted((tree / "freqbench" / room).rglob("*.py")):
            for site in sites(ast.parse(path.read_text(encoding="utf-8"))):
                seen = Counter[str]()
                for node in site.nodes:
                    for operator, after in mutated(node):
                        before = ast.unparse(node)
                        entry = {"room": room, "module": str(path.relative_to(tree)), "operator": operator}
                        entry |= {"function": site.function, "statement": site.text, "before": before, "after": after}
                        by_operator.setdefault(operator, []).append(entry | {"nth": seen[before]})
                    seen[ast.unparse(node)] += 1
        pools = [generator.sample(pool, len(pool)) for _, pool in sorted(by_operator.items())]
        drawn = [pool.pop() for _ in range(count) for pool in pools if pool]
        sample += drawn[:count]
    return [{"id": number, **mutant} for number, mutant in enumerate(sample)]


@cache
def parsed(source: str) -> list[Site]:
    return [*sites(ast.parse(source))]


def located(mutant: dict[str, Any], sources: dict[str, str]) -> tuple[str, ast.AST] | None:
    """File and expression: the same statement of a function of that name, else the same expression in one, once."""
    exact, loose = list[tuple[str, ast.AST]](), list[tuple[str, ast.AST]]()
    for path, source in sources.items():
        for site in parsed(source):
            if site.text != mutant["statement"] and site.function != mutant["function"]:
                continue
            same = [(path, node) for node in site.nodes if ast.unparse(node) == mutant["before"]]
            if site.text == mutant["statement"] and len(same) > mutant["nth"]:
                (exact if site.function == mutant["function"] else loose).append(same[mutant["nth"]])
            elif site.function == mutant["function"]:
                loose += same
    exact.sort(key=lambda found: Path(found[0]).name != Path(mutant["module"]).name)
    return exact[0] if exact else loose[0] if len(loose) == 1 else None


def changed(source: str, node: ast.AST, after: str) -> str:
    lines = source.encode().splitlines(keepends=True)
    first, last = node.lineno - 1, node.end_lineno - 1
    replaced = lines[first][: node.col_offset] + f"({after})".encode() + lines[last][node.end_col_offset :]
    return b"".join([*lines[:first], replaced, *lines[last + 1 :]]).decode()


def test_files(mutant: dict[str, Any], copy: Path, module: str) -> list[str]:
    """The files of the folders that concern the mutant: first those that import its module, then those that name it."""
    folders = [folder for name in TESTS[mutant["room"]] for folder in [copy / "tests" / name] if folder.is_dir()]
    package, _, stem = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".").rpartition(".")
    patterns = [rf"{package}\.{stem}\b|from {package} import .*\b{stem}\b", rf"\b{stem}\b"]

    def rank(file: Path) -> int:
        text = file.read_text(encoding="utf-8")
        return next((place for place, pattern in enumerate(patterns) if re.search(pattern, text)), len(patterns))

    files = [file for folder in folders for file in sorted(folder.rglob("test_*.py"))]
    return [str(file.relative_to(copy)) for file in sorted(dict.fromkeys(files), key=rank)]


def outcome(mutant: dict[str, Any], copy: Path, workers: str, minutes: float) -> str:
    sources = {str(path.relative_to(copy)): path.read_text("utf-8") for path in sorted(copy.glob("freqbench/**/*.py"))}
    found = located(mutant, sources)
    if found is None:
        return "not found"
    module, node = found
    (copy / module).write_text(changed(sources[module], node, mutant["after"]), "utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", workers, "-p", "no:cacheprovider", "-p", "no:randomly"]
    try:
        done = subprocess.run(
            [*command, *test_files(mutant, copy, module)],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=60 * minutes,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "killed"  # as a loop that no longer ends
    finally:
        (copy / module).write_text(sources[module], "utf-8")
    return {0: "survived", 1: "killed", 2: "killed"}.get(done.returncode, f"pytest ended with {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sample", "run"])
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout that is changed")
    parser.add_argument(
        "--out", type=Path, default=Path("mutants.json"), help="results; what stands there is not run again"
    )
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants")
    parser.add_argument("--workers", default="0", help="processes of pytest")
    parser.add_argument("--minutes", type=float, default=20)
    args = parser.parse_args()
    if args.what == "sample":
        SAMPLE.write_text(json.dumps(draw(args.tree), indent=1) + "\n", "utf-8")
        return
    results: dict[str, str] = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    left_out = shutil.ignore_patterns(".git", "runs", "__pycache__", ".*_cache", "shared")
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(args.tree, Path(place) / "copy", ignore=left_out))
        for mutant in json.loads(SAMPLE.read_text("utf-8")):
            name = str(mutant["id"])
            if name not in results and (args.only is None or mutant["id"] in args.only):
                results[name] = outcome(mutant, copy, args.workers, args.minutes)
                args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
                print(
                    name, results[name], mutant["module"], mutant["function"], mutant["operator"], sep="\t", flush=True
                )
    print(dict(Counter(results.values())))


if __name__ == "__main__":
    main()
