"""The table of threats names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")][2:]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row[-1])})


def test_every_threat_has_what_holds_it_and_a_test() -> None:
    assert len(ROWS) >= 10
    assert all(len(row) == 3 and all(row) and "`" in row[2] for row in ROWS)


def test_the_tests_that_the_table_names_are_there() -> None:
    for file, test in NAMED:
        text = (ROOT / (file if "/" in file else f"tests/security/{file}")).read_text()
        assert not test or f"\ndef {test}(" in text, test
