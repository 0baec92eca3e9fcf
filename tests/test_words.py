"""Names and docstrings begin with a verb or a noun, tests' names have at most 60 letters, no text is in dialect."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.repository
ROOT = Path(__file__).parents[1]
CLAUSE = re.compile(
    "and|but|how(ever)?|if|its?|nor|so|that|these|there|they|this|those|what(ever)?|when|where(ver)?|whether"
    "|which(ever)?|while|who(ever|se)?|why"
)
PREPOSITION = re.compile(
    "about|above|after|against|along|among|around|as|at|before|behind|below|beside|between|beyond|by|during|for|in|inside"
    "|into|near|of|off|on|onto|out|outside|over|per|since|through|towards?|under|until|up|upon|via|with(in|out)?"
)
"""Words that begin no docstring, no test's name, and, if prepositions, no function's."""
ALONE = re.compile(
    r"(?!(embed|exceed|feed|need|proceed|seed|speed)$)\w+ed|(over|re|un)?(begun|broken|brought|built|caught|chosen|done"
    "|drawn|driven|found|frozen|given|gone|held|hidden|kept|known|left|lost|made|meant|met|said|seen|sent|shown|sought"
    "|spent|taken|taught|thought|told|withheld|written)"
)
"""Participles, each of which alone names no function of the package, only a property."""
DIALECT = re.compile(r"\b(is|are|was|were) (told|said)\b|\bsays? so\b|\bUserErrors?,? (in|of) one line\b")
EXEMPT = re.compile(
    r"attacks/.*|ops/.*|audit/checks/.*"  # the papers' words, also for other packages' attacks; the words of findings
    r"|analysis/statistics\.py:inside|engine/(critic|retry)\.py:.*|metrics/(added|volumes)\.py:.*"
    r"|results/(lease|writer|store)\.py:.*|reporting/papers/.*|testing\.py:.*|core/errors\.py:(shortened|unknown)"
    r"|data/base\.py:chosen|models/wrapper\.py:for_case"  # public
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def nodes(tree: str) -> list[tuple[str, ast.AST]]:
    files = [(p.relative_to(ROOT / tree).as_posix(), p.read_text("utf-8")) for p in (ROOT / tree).rglob("*.py")]
    found = [(path, node) for path, text in files for node in ast.walk(ast.parse(text))]
    return [(path, node) for path, node in found if isinstance(node, ast.Module | ast.ClassDef | Function)]


def is_misnamed(node: Function) -> bool:
    first, *more = node.name.strip("_").split("_")
    is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
    return bool(PREPOSITION.fullmatch(first) or (not more and not is_property and ALONE.fullmatch(first)))


def is_inverted(word: str) -> bool:
    return bool(CLAUSE.fullmatch(word) or PREPOSITION.fullmatch(word))


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    texts = [(path, text) for path, node in nodes("freqbench") if (text := ast.get_docstring(node))]
    assert [each for each in texts if is_inverted(each[1].split()[0].strip(",:").lower())] == []
    assert [each for each in texts if DIALECT.search(each[1])] == []


def test_functions_are_no_prepositions_nor_participles() -> None:
    places = {f"{p}:{n.name}" for p, n in nodes("freqbench") if isinstance(n, Function) and is_misnamed(n)}
    assert {place for place in places if not EXEMPT.fullmatch(place) and "__" not in place} == set()


def test_names_of_tests_say_subject_and_fact_in_60_letters() -> None:
    names = {node.name for _, node in nodes("tests") if isinstance(node, Function) and node.name.startswith("test_")}
    assert {each for each in names if len(each) > 60 or is_inverted(each.split("_")[1])} == set()


@pytest.mark.parametrize("name", ["_on_its_grid", "of_file", "told", "_counted", "rebuilt"])
def test_misnamed_functions_are_found(name: str) -> None:
    wrong, right, shown = ast.parse(f"def {name}(): ...\ndef from_file(): ...\n@property\ndef seen(self): ...").body
    assert [is_misnamed(each) for each in (wrong, right, shown)] == [True, False, False]  # type: ignore[arg-type]
