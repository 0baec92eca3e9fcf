"""Measures what the tests catch: makes one small change at a time in a copy of the repository and runs the tests.

    python tests/tools/mutation/run.py sample --tree OLD_CHECKOUT     writes sample.json beside this file
    pytest --cov freqbench --cov-branch --cov-context test --junitxml tests.xml
    python tests/tools/mutation/run.py run --out results.json         runs the whole sample on this checkout

The second command (pytest-cov, not among the dependencies) leaves in `.coverage` which test runs which line. A mutant
meets the tests that run its line and pass without it, the quickest first, up to SECONDS in all; where a fixture runs
the line, the whole file. A mutant is known by its function and the text of its statement, so that it is found again
where files have moved.
"""

import argparse
import ast
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT, SAMPLE = Path(__file__).parents[3], Path(__file__).with_name("sample.json")
COUNTS = {"attacks": 42, "ops": 30, "metrics": 22, "results": 26, "engine": 34, "reporting": 36}
SECONDS = 20.0
LATE = 600.0  # a run that takes longer no longer ends
HEAVY = ("matplotlib.pyplot", "monai.networks.nets", "monai.inferers", "pandas", "pyarrow.parquet", "ray", "torch")
SWAPS = {"Add": "-", "Sub": "+", "Mult": "/", "Div": "*", "FloorDiv": "*"}
FLIPS = {"Lt": "<=", "LtE": "<", "Gt": ">=", "GtE": ">", "Eq": "!=", "NotEq": "==", "In": "not in", "NotIn": "in"}
TWINS = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "minimum": "maximum", "maximum": "minimum"}
BOUNDS = {"clamp", "clip", "clamp_", "clip_", "project"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Site(NamedTuple):
    """One statement (of a compound one its header) and the function that it stands in."""

    function: str
    text: str
    line: int
    nodes: list[ast.AST]


def sites(tree: ast.AST, function: str = "") -> Iterator[Site]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt) and function and not isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Raise)):
            parts = [part for part in ast.iter_child_nodes(node) if not isinstance(part, (ast.stmt, ast.excepthandler))]
            is_header = hasattr(node, "body")
            text = " ".join([type(node).__name__, *map(ast.unparse, parts)]) if is_header else ast.unparse(node)
            yield Site(function, text, node.lineno, [inner for part in parts for inner in expressions(part)])
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
    """Yields the texts that may stand in place of an expression, each with its operator."""
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


def located(mutant: dict[str, Any], sources: dict[str, str]) -> tuple[str, int, ast.AST] | None:
    """File, first line of the statement, expression: the same statement of a function of that name, else the same
    expression in one, once."""
    exact, loose = list[tuple[str, int, ast.AST]](), list[tuple[str, int, ast.AST]]()
    for path, source in sources.items():
        for site in parsed(source):
            if site.text != mutant["statement"] and site.function != mutant["function"]:
                continue
            same = [(path, site.line, node) for node in site.nodes if ast.unparse(node) == mutant["before"]]
            if site.text == mutant["statement"] and len(same) > mutant["nth"]:
                (exact if site.function == mutant["function"] else loose).append(same[mutant["nth"]])
            elif site.function == mutant["function"]:
                loose += same
    exact.sort(key=lambda place: Path(place[0]).name != Path(mutant["module"]).name)
    return exact[0] if exact else loose[0] if len(loose) == 1 else None


def changed(source: str, node: ast.AST, after: str) -> str:
    lines = source.encode().splitlines(keepends=True)
    first, last = node.lineno - 1, node.end_lineno - 1
    replaced = lines[first][: node.col_offset] + f"({after})".encode() + lines[last][node.end_col_offset :]
    return b"".join([*lines[:first], replaced, *lines[last + 1 :]]).decode()


class Tests:
    """The tests of a checkout: how long those that pass take, and which lines they run."""

    def __init__(self, tree: Path, coverage: Path, report: Path) -> None:
        from coverage import CoverageData

        self.tree, self.data = tree.resolve(), CoverageData(str(coverage))
        self.data.read()
        self.seconds = {
            (case.get("classname"), case.get("name")): float(case.get("time", 0))
            for case in xml.etree.ElementTree.parse(report).iter("testcase")
            if len(case) == 0  # neither failed nor skipped
        }
        self.by_file: dict[str, list[str]] = {}
        for context in self.data.measured_contexts():
            test = context.rpartition("|")[0]
            if test:
                self.by_file.setdefault(test.partition("::")[0], []).append(test)

    def duration(self, test: str) -> float:
        """Infinite where it does not pass."""
        file, _, name = test.partition("::")
        return self.seconds.get((file.removesuffix(".py").replace("/", "."), name), float("inf"))

    def of(self, module: str, lines: range) -> list[str]:
        """The tests to run for a change in these lines, the quickest first."""
        tests: set[str] = set()
        for line, contexts in self.data.contexts_by_lineno(str(self.tree / module)).items():
            for context in contexts if line in lines else ():
                test, _, phase = context.rpartition("|")
                tests.update(self.by_file[test.partition("::")[0]] if phase == "setup" else [test] if test else [])
        chosen, total = [], 0.0
        for test in sorted(tests, key=self.duration):
            total += self.duration(test) + 0.05
            if total > SECONDS:
                break
            chosen.append(test)
        return chosen


def outcome(mutant: dict[str, Any], copy: Path, tests: Tests) -> str:
    sources = {str(path.relative_to(copy)): path.read_text("utf-8") for path in sorted(copy.glob("freqbench/**/*.py"))}
    place = located(mutant, sources)
    if place is None:
        return "not found"
    module, line, node = place
    chosen = tests.of(module, range(line, node.end_lineno + 1))
    if not chosen:
        return "not covered"
    (copy / module).write_text(changed(sources[module], node, mutant["after"]), "utf-8")
    try:
        code = _pytest(copy, chosen)
    finally:
        (copy / module).write_text(sources[module], "utf-8")
    return {0: "survived", None: "killed", **dict.fromkeys((1, 2, 4), "killed")}.get(code, f"pytest ended with {code}")


def _pytest(copy: Path, chosen: list[str]) -> int | None:
    """The exit code of pytest, in a process that has the heavy packages already; None where it did not end."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        with open(os.devnull, "w") as silent:  # noqa: PTH123
            os.dup2(silent.fileno(), 1)
            os.dup2(silent.fileno(), 2)
        import pytest

        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:cov", "-m", ""]
        os._exit(int(pytest.main([*options, *chosen])))
    end = time.monotonic() + LATE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sample", "run"])
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout that is changed")
    parser.add_argument(
        "--out", type=Path, default=Path("mutants.json"), help="results; what stands there is not run again"
    )
    parser.add_argument("--coverage", type=Path, default=Path(".coverage"), help="of the checkout's tests")
    parser.add_argument("--tests", type=Path, default=Path("tests.xml"), help="JUnit file of the same run")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants")
    args = parser.parse_args()
    if args.what == "sample":
        SAMPLE.write_text(json.dumps(draw(args.tree), indent=1) + "\n", "utf-8")
        return
    tests = Tests(args.tree, args.coverage, args.tests)
    results: dict[str, str] = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    left_out = shutil.ignore_patterns(".git", "runs", "__pycache__", ".*_cache", "shared")
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(args.tree, Path(place) / "copy", ignore=left_out))
        os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        for name in HEAVY:
            importlib.import_module(name)
        for mutant in json.loads(SAMPLE.read_text("utf-8")):
            name = str(mutant["id"])
            if name not in results and (args.only is None or mutant["id"] in args.only):
                results[name] = outcome(mutant, copy, tests)
                args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
                shown = (name, results[name], mutant["module"], mutant["function"], mutant["operator"])
                print(*shown, sep="\t", flush=True)
    print(dict(Counter(results.values())))


if __name__ == "__main__":
    main()
