"""YAML to models: overrides, and errors that name the place."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from freqbench.core import config
from freqbench.core.config import Strict
from freqbench.core.errors import UserError


class Inner(Strict):
    size: int = 1
    either: int | str | None = None


class Outer(Strict):
    name: str
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()
    choice: int | tuple[int, int] = 0
    short: str = Field("ab", max_length=2)


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return config.load(str(path), Outer, overrides)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("name=b", lambda o: o.name == "b"),
        ("inner.size=3", lambda o: o.inner.size == 3),
        ("items.0.size=4", lambda o: o.items[0].size == 4),
        ("items=[{size: 9}]", lambda o: [item.size for item in o.items] == [9]),
        ("items.1={size: 5}", lambda o: o.items[1].size == 5),
        ("inner.either=a=b", lambda o: o.inner.either == "a=b"),
    ],
)
def test_the_last_override_reaches_its_place(tmp_path: Path, override: str, value: object) -> None:
    key = override.partition("=")[0]
    assert value(load(tmp_path, "{name: a, items: [{}, {}]}", *[f"{key}=7"] * (key == "name"), override))


@pytest.mark.parametrize(
    "override",
    [
        *("items.7.size=1", "items.-1.size=1", "items.\u0660.size=1", "items.x.size=1", "items.9=1", "name.x=1"),
        *("name=[", "=1.x.y", "name"),
    ],
)
def test_an_override_without_a_place_or_a_value_is_one_line(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError):
        load(tmp_path, "{name: a, items: [{}]}", override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{name: a", "not readable as YAML: while parsing a flow mapping, expected ',' or '}', but got"),
        (
            "{name: on}",
            "not readable as YAML: expected true, false, or a name in quotes, got on: "
            "write true or false, or quote it, line 1, column 8",
        ),
        ("- a", "expected keys and values at the top, got list"),
        ("", "expected keys and values at the top, got NoneType"),
        ("{name: a, inner: {sise: 1}}", "inner: unknown key 'sise'. Did you mean 'size'?"),
        ("{name: a, items: [{}, {sise: 1}]}", "items[1]: unknown key 'sise'. Did you mean 'size'?"),
        ("{name: a, items: [{}, {size: x}]}", "items[1].size: Input should be a valid integer"),
        ("{name: a, short: abc}", "short: String should have at most 2 characters, got 'abc'"),
        ("{inner: {}}", "name: required, but not given"),
        ("{name: a, choice: [1, x]}", "choice: "),
        ("{name: a, choice: x}", "choice: Input should be a valid integer"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_place(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 'a.yaml'}: {expected}")
    assert message.endswith("or a list, got 'x'") or "choice: x" not in text


class Texts(Strict):
    name: str = "a"
    kind: Literal["none", "some"] = "none"
    ids: int | tuple[str, ...] | None = None
    size: int = 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{name: 1.10}", "name: Input should be a valid string, got 1.1: put a name that YAML reads otherwise"),
        ("{name: ~}", "name: Input should be a valid string, got None: put a name that YAML reads otherwise"),
        ("{name: true}", "name: expected text, got True: put a name that YAML reads otherwise"),
        ("{ids: [a, 2.50]}", "ids: Input should be a valid integer or a valid string, got ['a', 2.5]: put a name"),
        ("{kind: true}", "kind: expected 'none' or 'some', got True"),
        ("{size: false}", "size: expected a number, got False"),
    ],
)
def test_a_word_that_yaml_reads_otherwise_is_to_be_quoted(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        config.load(str(tmp_path / "a.yaml"), Texts)
    assert str(caught.value).startswith(f"{tmp_path / 'a.yaml'}: {expected}")


def test_leading_zero_is_decimal_where_a_number_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{size: 0755, ids: [0755, 010]}")
    texts = config.load(str(tmp_path / "a.yaml"), Texts)
    assert (texts.size, texts.ids) == (755, ("0755", "010"))
