"""What cluster/README.md tells people to type is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / "cluster" / target).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:cluster|jobs)/[\w./-]+\.(?:yaml|sh)", TEXT))))
def test_files_in_commands_exist(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_file_of_the_folder_is_named() -> None:
    files = {path.relative_to(ROOT / "cluster").as_posix() for path in (ROOT / "cluster").rglob("*") if path.is_file()}
    assert {file for file in files if f"({file})" not in TEXT} == {"README.md"}


def test_commands_of_local_are_those_of_the_script() -> None:
    script = (ROOT / "cluster" / "local.sh").read_text(encoding="utf-8")
    used = set(re.findall(r"local\.sh (\w+)", TEXT))
    assert {"up", "env", "kill", "down"} <= used <= set(re.findall(r"^    (\w+)\) ", script, flags=re.MULTILINE))
