"""A model card is plain text and https links; whatever else it holds is one line."""

from pathlib import Path
from typing import Any

import pytest
from reporting.leaderboard.conftest import CARD, write_card

from freqbench.core.errors import UserError
from freqbench.reporting.leaderboard.card import TEMPLATE, is_address, read_card


def test_a_filled_in_card_is_read(tmp_path: Path) -> None:
    write_card(tmp_path, summary=" A <b>network</b>.\nTwo lines. ", paper="https://arxiv.org/abs/1706.06083")
    card = read_card(tmp_path / "card.yaml")
    assert card.summary == "A <b>network</b>.\nTwo lines."
    assert card.paper == "https://arxiv.org/abs/1706.06083"


@pytest.mark.parametrize("key", [key for key, value in CARD.items() if value is not None])
def test_the_template_waits_to_be_filled_in(tmp_path: Path, key: str) -> None:
    given = {**CARD, key: ""}
    write_card(tmp_path, **given)
    with pytest.raises(UserError, match=f"card.yaml: {key}: expected"):
        read_card(tmp_path / "card.yaml")


def test_the_template_has_every_key() -> None:
    assert [line.split(":")[0] for line in TEMPLATE.splitlines()[1:]] == list(CARD)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"checkpoint": "javascript:alert(1)"}, "checkpoint: expected an https address or zoo"),
        ({"checkpoint": "file:///etc/passwd"}, "checkpoint: expected an https address or zoo"),
        ({"checkpoint": "zoo://../../x"}, "checkpoint: expected an https address or zoo"),
        ({"paper": "http://example.org"}, "paper: expected an https address"),
        ({"paper": 'https://example.org/"onclick="x'}, "paper: expected an https address"),
        ({"contact": "data:text/html,x"}, "contact: expected a mail address or an https address"),
        ({"title": "a\x1b[31mb"}, "not readable as YAML|expected plain text"),
        ({"title": "a\u202eb"}, "title: expected plain text"),
        ({"summary": "a" * 3001}, "summary: expected at most 3000 letters, got 3001"),
        ({"script": "x"}, "unknown key 'script'"),
        ({"license": ["MIT"]}, "license: "),
    ],
)
def test_a_hostile_card_is_one_line(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    write_card(tmp_path, **changes)
    with pytest.raises(UserError, match=complaint) as caught:
        read_card(tmp_path / "card.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['true']", "[]", "a: &a [*a]", "x" * 2**21])
def test_yaml_that_is_no_card_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=r"card\.yaml"):
        read_card(tmp_path / "card.yaml")


@pytest.mark.parametrize("text", ["https://", "https://a b", "https://me:secret@example.org", "https://[", "//a", "x"])
def test_what_is_no_address_of_a_host(text: str) -> None:
    assert not is_address(text)
