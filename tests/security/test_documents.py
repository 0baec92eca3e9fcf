"""YAML and JSON of unknown origin: what jobs are made of is read as any YAML library reads it, the rest is one line."""

import json
import time
from pathlib import Path

import pytest
import yaml
from security.traps import line_of

from freqbench.core import config, documents
from freqbench.core.errors import UserError
from freqbench.job.schema import JobSpec

ROOT = Path(__file__).parents[2]
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
TOO_MUCH = {
    "laughs": (LAUGHS, "more than 20,000 values, aliases spelt out"),
    "merged laughs": (MERGED, "more than 20,000 values, aliases spelt out"),
    "many values": ("[" + "0," * 20_000 + "0]", "more than 20,000 values"),
    "itself": ("a: &a [*a]", "an alias inside its own anchor"),
    "itself deeper": ("a: &a {b: [{c: *a}]}", "an alias inside its own anchor"),
    "deep": ("[" * 5000, "more than 64 levels"),
    "deep mapping": ("{a: " * 200 + "1" + "}" * 200, "more than 64 levels"),
    "a key twice": ("name: a\nmodels: []\nname: b", "the key 'name' twice"),
    "a key twice inside": ("a: [{b: 1, 'b': 2}]", "the key 'b' twice"),
    "long": ("#" * (2**20 + 1), "expected YAML of at most 1 MiB"),
    "digits": ("seeds: [" + "9" * 5000 + "]", "a whole number of 5,000 digits"),
    "no day": ("a: !!timestamp 2026-02-31", "not readable as YAML"),
    "an object": ("!!python/object/apply:os.system [echo]", "could not determine a constructor"),
    "a key that is a list": ("{[a]: 1}", "not readable as YAML"),
    "two documents": ("a: 1\n---\nb: 2", "expected a single document"),
}


@pytest.mark.parametrize(("text", "reason"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_too_much_is_one_line_at_once(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        config.load(str(tmp_path / "job.yaml"), JobSpec)
    assert reason in line_of(caught)
    assert len(str(caught.value)) < 600
    assert time.process_time() - began < 20  # spelt out, they would take for ever


def test_too_much_on_the_command_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("{name: a}")
    with pytest.raises(UserError, match="more than 20,000 values, aliases spelt out"):
        config.load(str(tmp_path / "job.yaml"), JobSpec, [f"attacks={LAUGHS}"])
    with (tmp_path / "job.yaml").open("wb") as stream:
        stream.truncate(2**40)  # a terabyte of zeros on no disk
    with pytest.raises(UserError, match=r"expected YAML of at most 1 MiB"):
        config.load(str(tmp_path / "job.yaml"), JobSpec)


@pytest.mark.integration
def test_yaml_of_most_values_allowed_is_read_as_library_reads_it() -> None:
    """Aliases and merges in measure too."""
    assert documents.yaml_of("[" + "0," * 19_998 + "0]", "job.yaml") == [0] * 19_999
    merged = "base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\nagain: [*b, *b]\nboth: {<<: [*b, {z: 4}]}"
    for text in (merged, *(path.read_text() for path in (ROOT / "jobs").rglob("*.yaml"))):
        assert documents.yaml_of(text, "job.yaml") == yaml.safe_load(text)


NO_JSON = {
    "deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, "more than 64 levels"),
    "deep enough": ('{"a":' * 65 + "1" + "}" * 65, "more than 64 levels"),
    "deep list": ("[" * 65 + "]" * 65, "more than 64 levels"), "unfinished": ("[" * 100_000, "more than 64 levels"),
    "nothing": ("", ""), "no text": ("\xff", ""), "digits": ("9" * 5000, ""), "no word": ('{"a": nul}', ""),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), NO_JSON.values(), ids=NO_JSON)
def test_json_that_is_none_or_too_deep_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^a\.json: not readable as JSON: {reason}") as caught:
        documents.json_of(text.encode("latin-1"), "a.json")
    line_of(caught)


def test_json_is_read_as_the_library_does(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"a": [1, {"b": None, "c": "\u00e4"}], "d": 1.5, "e": [[[]]]})
    assert documents.json_of(text, "a.json") == json.loads(text)
    assert documents.json_of("[" * 64 + "]" * 64, "a.json")
    monkeypatch.setattr(documents, "JSON_BYTES", 2**20)
    with pytest.raises(UserError, match="expected JSON of at most 1 MiB, got more"):
        documents.json_of(b" " * (2**20 + 1), "a.json")
