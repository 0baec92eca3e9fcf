"""Docstrings begin with a verb or a noun; in tests, names say subject and fact, and bindings their content."""

from pathlib import Path

import pytest
from words import offenders

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.repository
FOLDERS = sorted(
    str(path.relative_to(ROOT))
    for top in ("freqbench", "tests")
    for path in (ROOT / top, *(ROOT / top).iterdir())
    if path.is_dir() and not path.name.startswith((".", "__"))
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_words_keep_the_rules(folder: str) -> None:
    paths = (ROOT / folder).glob("*.py") if "/" not in folder else (ROOT / folder).rglob("*.py")
    assert [line for path in sorted(paths) for line in offenders(path)] == []


def test_each_rule_sees_what_breaks_it(tmp_path: Path) -> None:
    path = tmp_path / "tests" / "test_rooms.py"
    path.parent.mkdir()
    path.write_text(
        '"""Rooms."""\nclass A:\n    """What it is."""\n    def f(self):\n        """Of a room, the name."""\n'
        'def test_so_it_is(found):\n    found = 1\ndef test_no_room_is_lost(): ...\nB = 1\n"""By name, the rooms."""\n'
    )
    seen = sorted(line.removeprefix(f"{path}:") for line in offenders(path))
    assert seen == [
        "10 By name, the rooms.",
        "2 What it is.",
        "4 Of a room, the name.",
        "6 found",
        "6 test_so_it_is",
        "7 found",
    ]
