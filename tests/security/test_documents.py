"""YAML and JSON of unknown origin are read as any library reads it or refused, and names lead to no other file."""

import json
import re
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from security.traps import line_of
from tiny_job import expanded, noted, small

from freqbench.core import config, documents, names
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.types import CaseRef
from freqbench.data.loaders.decathlon import SPLITS
from freqbench.job.grid import further_targets
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.job.sweep import require_own_files
from freqbench.training import TrainJob

ROOT = Path(__file__).parents[2]
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(LAUGHS, "more than 20,000 values, aliases spelt out", id="laughs"),
        pytest.param(MERGED, "more than 20,000 values, aliases spelt out", id="merged laughs"),
        pytest.param("[" + "0," * 20_000 + "0]", "more than 20,000 values", id="many values"),
        pytest.param("a: &a [*a]", "an alias inside its own anchor", id="itself"),
        pytest.param("a: &a {b: [{c: *a}]}", "an alias inside its own anchor", id="itself deeper"),
        pytest.param("[" * 5000, "more than 64 levels", id="deep"),
        pytest.param("{a: " * 200 + "1" + "}" * 200, "more than 64 levels", id="deep mapping"),
        pytest.param("name: a\nmodels: []\nname: b", "the key 'name' twice", id="a key twice"),
        pytest.param("a: [{b: 1, 'b': 2}]", "the key 'b' twice", id="a key twice inside"),
        pytest.param("#" * (2**20 + 1), "expected YAML of at most 1 MiB", id="long"),
        pytest.param("seeds: [" + "9" * 5000 + "]", "a whole number of 5,000 digits", id="digits"),
        pytest.param("a: !!timestamp 2026-02-31", "not readable as YAML", id="no day"),
        pytest.param("!!python/object/apply:os.system [echo]", "could not determine a constructor", id="an object"),
        pytest.param("{[a]: 1}", "not readable as YAML", id="a key that is a list"),
        pytest.param("a: 1\n---\nb: 2", "expected a single document", id="two documents"),
    ],
)
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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param('{"a":' * 100_000 + "1" + "}" * 100_000, "more than 64 levels", id="deep"),
        pytest.param('{"a":' * 65 + "1" + "}" * 65, "more than 64 levels", id="deep enough"),
        pytest.param("[" * 65 + "]" * 65, "more than 64 levels", id="deep list"),
        pytest.param("[" * 100_000, "more than 64 levels", id="unfinished"),
        pytest.param("", "", id="nothing"),
        pytest.param("\xff", "", id="no text"),
        pytest.param("9" * 5000, "", id="digits"),
        pytest.param('{"a": nul}', "", id="no word"),
    ],
)
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


GOOD = ["BRATS_001", "s0000", "amos_0001", "img0061", "case 7 (2)", "M\u00fcller_1"]


def test_every_name_that_is_known_stays_as_it_is() -> None:
    """Names are those of the lists that the package carries, of its jobs, and of datasets."""
    known = {*re.findall(r"(\w+)\.nii\.gz", "".join(path.read_text() for path in SPLITS.glob("*.json"))), *GOOD}
    for path in (ROOT / "jobs").rglob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        known |= {content["name"], *(model["name"] for model in content["models"])}
    assert len(known) > 200
    assert {names.require_name(name) for name in known} == known


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("..", id="parent"),
        pytest.param("../../etc/cron", id="up"),
        pytest.param("/etc/cron", id="absolute"),
        pytest.param("a\\b", id="backslash"),
        pytest.param(".bashrc", id="hidden"),
        pytest.param("-rf", id="option"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("a\nb", id="line"),
        pytest.param("a\u202egnp", id="direction"),
        pytest.param("${HOME}", id="variable"),
        pytest.param("[red]a", id="markup"),
        pytest.param("=1+1", id="formula"),
        pytest.param("a.", id="last dot"),
        pytest.param("a\udcff", id="no text"),
        pytest.param("a" * 129, id="long"),
        pytest.param("\u00e4" * 65, id="long in bytes"),
        pytest.param(unicodedata.normalize("NFD", "M\u00fcller"), id="decomposed"),
        pytest.param("\u212b", id="not canonical"),
    ],
)
def test_a_name_that_is_no_file_s_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^case: expected a name of letters, digits") as caught:
        names.require_name(name, "case")
    line_of(caught)


@settings(max_examples=100, deadline=None)
@given(
    name=st.text(st.characters(categories=["L", "N", "M", "Cc", "Zs"]) | st.sampled_from("ab/\\.-~ :*$\0"), max_size=9)
)
def test_an_allowed_name_is_one_file_of_that_name(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        names.require_name(name)
    except UserError:
        return
    with TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as folder:
        Path(folder, name).touch()
        assert [path.name for path in Path(folder).iterdir()] == [name]
    assert unicodedata.normalize("NFC", name) == name


@pytest.mark.parametrize(
    ("what", "name"), [("job", "../x"), ("model", "a\nb"), ("trained model", ".x"), ("target", "a b.")]
)
def test_a_job_s_names_are_held_to_it(what: str, name: str) -> None:
    training = yaml.safe_load((ROOT / "jobs" / "research" / "phantom" / "zoo.yaml").read_text())
    trained = {**training, "models": [{**training["models"][0], "name": name}]}
    read: dict[str, Callable[[], object]] = {
        "job": lambda: config.validate(small(name=name), JobSpec, "job.yaml"),
        "model": lambda: expanded(small(models=[{**small()["models"][0], "name": name}])),
        "trained model": lambda: config.validate(trained, TrainJob, "job.yaml"),
        "target": lambda: further_targets(config.validate(small(), JobSpec, "job.yaml"), [f"{name}=x.pt"]),
    }
    with pytest.raises(UserError) as caught:
        read[what]()
    assert "name: expected a name of letters, digits" in line_of(caught)


def test_a_case_name_is_the_listed_one_for_every_loader() -> None:
    with pytest.raises(UserError, match=r"^case: expected a name"):
        CaseRef(case_id="../x", patient_id="p", fingerprint="0" * 16, shape=(1, 1, 1))


def nnunet(root: Path, name: str) -> dict[str, Any]:
    content = {"labels": {"background": 0, "organ": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    (root / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": [name]}]))
    return {"loader": "nnunet_raw", "split": "validation", "fold": 0}


def totalsegmentator(root: Path, name: str) -> dict[str, Any]:
    (root / "meta.csv").write_text(f"image_id;split\n{name};val\n")
    return {"loader": "totalsegmentator", "split": "val", "classes": ["liver"]}


@pytest.mark.parametrize(("listing", "name"), [(nnunet, "../../secret"), (totalsegmentator, "..")])
def test_list_s_names_are_held_to_it_before_file_is_looked_for(
    listing: Callable[[Path, str], dict[str, Any]], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = noted(monkeypatch, storage, "fetch", lambda path, *_: Path(path).name)
    dataset = build_dataset({"name": "d", "root": str(tmp_path), **listing(tmp_path, name)}, "job.yaml")
    with pytest.raises(UserError, match="case: expected a name"):
        dataset.refs()
    assert {*looked} <= {"dataset.json", "splits_final.json", "meta.csv"}


def test_cases_that_one_file_would_hold_are_refused() -> None:
    refs = tuple(CaseRef(case_id=n, patient_id="p", fingerprint=n * 8, shape=(1, 1, 1)) for n in ("case_a", "CASE_a"))
    with pytest.raises(UserError, match=r"differ in more than capitals.*got case_a and CASE_a: rename one"):
        require_own_files(refs)


def test_a_class_of_others_is_held_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside.py").write_text(
        "from toy.attack import Walk\n\nclass Away(Walk):\n    name = '../../away'\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="outside:Away: expected a name of letters"):
        expanded(small(attacks=[{"name": "outside:Away", "eps": 0.1}], trust_code=True))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("reference://::file:///tmp/instructions.json", "a path or the URI of a known file system"),
        ("/data/a::memory://b", "a path or the URI of a known file system"),
        ("dask://a", "a path or the URI of a known file system"),
        ("s3://", "a URI s3://PLACE"),
        ("s3:/out/converge.csv", "a URI s3://PLACE"),
        ("a\0b", "a path without control characters"),
        ("s3://bucket/a\x1b]0;x\x07", "a path without control characters"),
    ],
)
def test_a_path_that_would_do_more_than_name_a_file_is_refused(path: str, text: str) -> None:
    with pytest.raises(UserError, match=f"expected {text}") as caught:
        storage.exists(path)
    line_of(caught)


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "db_password", "AZURE_STORAGE_CONNECTION_STRING"])
@pytest.mark.parametrize("text", ["http://localhost/${%s}", "/data/$%s"])
def test_a_path_with_a_secret_variable_is_refused(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "hunter2")
    with pytest.raises(UserError, match=f"got {variable}, which sounds secret") as caught:
        storage.filled_in(text % variable, "data")
    assert "hunter2" not in line_of(caught)
