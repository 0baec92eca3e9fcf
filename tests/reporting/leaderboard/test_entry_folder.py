"""Cards and facts of entries are read as data: what is none is refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
from reporting.leaderboard.conftest import CARD, write_card

from freqbench.core.config import load
from freqbench.core.errors import UserError
from freqbench.reporting.leaderboard.entry_folder import TEMPLATE, Card, read_entry


def read_card(path: Path) -> Card:
    return load(str(path), Card)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("card.yaml", None, "card.yaml: expected a YAML file, found none"),
        ("entry.json", None, "entry.json: expected a YAML file, found none"),
        ("entry.json", "[]", r"entry\.json: "),
        ("entry.json", json.dumps({"checkpoint": "0"}), "versions: required"),
        ("entry.json", json.dumps({"checkpoint": "0", "versions": {}, "files": {}}), "unknown key 'files'"),
    ],
)
def test_an_entry_without_card_or_facts_is_one_line(
    entered: Path, tmp_path: Path, name: str, content: str | None, complaint: str
) -> None:
    folder = Path(shutil.copytree(entered / "entries" / "plain", tmp_path / "plain"))
    read_entry(folder)
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_entry(folder)


def test_a_filled_in_card_is_read(tmp_path: Path) -> None:
    write_card(tmp_path, summary=" A <b>network</b>.\nTwo lines. ", paper="https://arxiv.org/abs/1706.06083")
    card = read_card(tmp_path / "card.yaml")
    assert (card.summary, card.paper) == ("A <b>network</b>.\nTwo lines.", "https://arxiv.org/abs/1706.06083")


@pytest.mark.parametrize("key", [key for key, value in CARD.items() if value is not None])
def test_the_template_waits_to_be_filled_in(tmp_path: Path, key: str) -> None:
    write_card(tmp_path, **{**CARD, key: ""})
    with pytest.raises(UserError, match=f"card.yaml: {key}: expected"):
        read_card(tmp_path / "card.yaml")


def test_the_template_has_every_key() -> None:
    assert [line.split(":")[0] for line in TEMPLATE.splitlines()[1:]] == list(CARD)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"script": "x"}, "unknown key 'script'"),
        ({"license": ["MIT"]}, "license: "),
    ],
)
def test_a_card_of_another_form_is_one_line(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    write_card(tmp_path, **changes)
    with pytest.raises(UserError, match=complaint):
        read_card(tmp_path / "card.yaml")


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['true']", "[]", "a: &a [*a]", "x" * 2**21])
def test_yaml_that_is_no_card_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=r"card\.yaml"):
        read_card(tmp_path / "card.yaml")
