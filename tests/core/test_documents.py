"""Words of a job's YAML: numbers where people mean numbers, text elsewhere."""

import pytest
import yaml

from freqbench.core.documents import mapping_of, yaml_item, yaml_of
from freqbench.core.errors import UserError

TEXT = ("007", "-012", "0777", "0x1F", "0b101", "1_000", "1_0.5", "190:20:30", "20:30.5", "2001-12-14", "1e3", "10e-4")
WORDS = ("yes", "No", "ON", "off")


@pytest.mark.parametrize("word", TEXT)
def test_a_word_that_people_do_not_read_as_a_number_stays_text(word: str) -> None:
    assert yaml_of(f"[{word}, {word}: {word}]", "job.yaml") == [word, {word: word}]


@pytest.mark.parametrize(
    ("word", "value"), [("0", 0), ("-12", -12), ("+3", 3), ("1.50", 1.5), (".5", 0.5), ("2.5e-1", 0.25), ("3.", 3.0)]
)
def test_a_number_is_a_number(word: str, value: float) -> None:
    number = yaml_of(word, "job.yaml")
    assert number == value
    assert type(number) is type(value)


@pytest.mark.parametrize("word", ["true", "False", "null", "~", ".inf", "-.INF", "text", "'010'"])
def test_every_other_word_is_read_as_a_yaml_library_reads_it(word: str) -> None:
    assert yaml_of(f"a: {word}", "job.yaml") == yaml.safe_load(f"a: {word}")


@pytest.mark.parametrize("word", WORDS)
def test_word_of_flag_or_name_is_refused_unless_quoted(word: str) -> None:
    with pytest.raises(UserError, match=f"got {word}: write true or false, or quote it") as caught:
        yaml_of(f"names: [a, {word}]", "job.yaml")
    assert str(caught.value).startswith("job.yaml: ")
    assert yaml_of(f"names: [a, '{word}']", "job.yaml") == {"names": ["a", word]}


def test_files_of_other_tools_are_read_by_their_rules() -> None:
    assert mapping_of("{a: yes, b: 010, c: 1_000}", "a.yaml", of_others=True) == {"a": True, "b": 8, "c": 1000}


@pytest.mark.parametrize("word", [*TEXT, *WORDS])
def test_a_written_item_is_read_back(word: str) -> None:
    assert yaml_of(yaml_item({"name": word}), "job.yaml") == [{"name": word}]
