"""The README's table of threats names tests that are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Security\n")[2].partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("|")][
    2:
]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row[-1])})


def test_every_threat_has_what_holds_it_and_a_test() -> None:
    assert len(ROWS) >= 10
    assert all(len(row) == 3 and all(row) and "`" in row[2] for row in ROWS)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=["::".join(filter(None, name)) for name in NAMED])
def test_a_test_that_the_table_names_is_there(file: str, test: str) -> None:
    path = ROOT / (file if "/" in file else f"tests/security/{file}")
    functions = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert not test or test in functions
