"""Docstrings and functions' names begin with a verb or a noun; in tests, names say subject and fact, and bindings their
content."""

import ast
from pathlib import Path

import pytest
from words import EXEMPT, covers, misnamed, offenders

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


def test_a_preposition_or_a_participle_alone_names_no_function(tmp_path: Path) -> None:
    path = tmp_path / "freqbench" / "data" / "rooms.py"
    path.parent.mkdir(parents=True)
    wrong = ["_on_its_grid", "of_file", "told", "_counted", "_unseen", "by", "within_memory", "rebuilt"]
    right = ["from_file", "to_table", "read", "_cut", "_speed", "embed", "told_by", "_counted_rows", "offset", "inner"]
    path.write_text(
        "".join(f"def {name}(): ...\n" for name in (*wrong, *right))
        + "class A:\n    @property\n    def seen(self): ...\n    @cached_property\n    def in_order(self): ...\n"
    )
    seen = [line.rpartition(" ")[2] for line in offenders(path)]
    assert seen == [*wrong, "in_order"]


def test_each_exemption_from_the_rule_of_names_is_needed() -> None:
    package = ROOT / "freqbench"
    nodes = ((path, node) for path in package.rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    places = [f"{path.relative_to(package).as_posix()}:{node.name}" for path, node in nodes if misnamed(node)]
    assert [each for each in EXEMPT if not any(covers(each, place) for place in places)] == []
