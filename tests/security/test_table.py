"""The table of threats says of each what holds it and what tests it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.repository
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")][2:]


def test_every_threat_has_what_holds_it_and_a_test() -> None:
    assert len(ROWS) >= 10
    assert all(len(row) == 3 and all(row) and "`" in row[2] for row in ROWS)
