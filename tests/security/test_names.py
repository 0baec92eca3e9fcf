"""Names of job files, lists and classes become file names only where they fit one pattern; paths name plain files."""

import json
import re
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

from freqbench.core import config, names
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.types import CaseRef
from freqbench.data.loaders.decathlon import SPLITS
from freqbench.job.grid import further_targets
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.job.sweep import require_own_files
from freqbench.training import TrainJob

ROOT = Path(__file__).parents[2]
HOSTILE = {
    "empty": "",
    "parent": "..",
    "up": "../../etc/cron",
    "absolute": "/etc/cron",
    "backslash": "a\\b",
    "hidden": ".bashrc",
    "option": "-rf",
    "NUL": "a\0b",
    "line": "a\nb",
    "direction": "a\u202egnp",
    "variable": "${HOME}",
    "markup": "[red]a",
    "formula": "=1+1",
    "last dot": "a.",
    "long": "a" * 129,
    "long in bytes": "\u00e4" * 65,
    "decomposed": unicodedata.normalize("NFD", "M\u00fcller"),
    "not canonical": "\u212b",  # the sign of an angstrom, which some disks keep as the letter
    "no text": "a\udcff",
}
GOOD = ["BRATS_001", "s0000", "amos_0001", "img0061", "case 7 (2)", "M\u00fcller_1"]


def test_every_name_that_is_known_stays_as_it_is() -> None:
    """Names are those of the lists that the package carries, of its jobs, and of datasets."""
    known = {*re.findall(r"(\w+)\.nii\.gz", "".join(path.read_text() for path in SPLITS.glob("*.json"))), *GOOD}
    for path in (ROOT / "jobs").rglob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        known |= {content["name"], *(model["name"] for model in content["models"])}
    assert len(known) > 200
    assert {names.require_name(name) for name in known} == known


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
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
    [("reference://::file:///tmp/instructions.json", "a path or the URI of a known file system"),
     ("/data/a::memory://b", "a path or the URI of a known file system"),
     ("dask://a", "a path or the URI of a known file system"), ("s3://", "a URI s3://PLACE"),
     ("s3:/out/converge.csv", "a URI s3://PLACE"), ("a\0b", "a path without control characters"),
     ("s3://bucket/a\x1b]0;x\x07", "a path without control characters")],
)  # fmt: skip
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
