"""The JSON Schema of a job file: it takes every packaged job, and marks what a job file may not say."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tiny_job import small

from freqbench.attacks import ATTACKS
from freqbench.data import DATASETS
from freqbench.job.json_schema import schema_of
from freqbench.job.schema import JobSpec
from freqbench.training import TrainJob

JOBS = Path(__file__).parents[2] / "jobs"

Checks = dict[type, jsonschema.Draft7Validator]


@pytest.fixture(scope="module")
def checks() -> Checks:
    schemas = {model: schema_of(model) for model in (JobSpec, TrainJob)}
    for schema in schemas.values():
        jsonschema.Draft7Validator.check_schema(schema)
    return {model: jsonschema.Draft7Validator(schema) for model, schema in schemas.items()}


def test_every_packaged_job_is_right(checks: Checks) -> None:
    for path in JOBS.rglob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        check = checks[TrainJob if "splits" in content else JobSpec]
        assert [error.message for error in check.iter_errors(content)] == [], path


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"datasets": [{"name": "phantom", "shpe": 3}]}, "datasets/0"),
        ({"datasets": [{"name": "mine"}]}, "datasets/0/name"),
        ({"datasets": [{"name": "mine", "loader": "phantmo"}]}, "datasets/0/loader"),
        ({"attacks": [{"name": "pdg"}]}, "attacks/0/name"),
        ({"attacks": [{"name": "pgd", "eps": 0.1, "esp": 1}]}, "attacks/0"),
        ({"attacks": [{"name": "pgd", "eps": "big"}]}, "attacks/0/eps"),
        ({"attacks": [{"name": "pgd", "eps": 0.1, "organs": ["liver"]}]}, "attacks/0/organs"),
        ({"attacks": [{"name": "fgsm"}]}, "attacks/0"),
        ({"attacks": [{"name": "fgsm", "match": {"metric": "l2", "value": 1}}]}, "attacks/0/match"),
        ({"models": [{"name": "m", "chekpoint": "x"}]}, "models/0"),
        ({"models": [{"name": "m", "checkpoint": "x", "defence": {"name": "bits"}}]}, "models/0/defence"),
        ({"nmae": "x"}, ""),
    ],
)
def test_a_mistake_is_marked_at_its_place(checks: Checks, changes: dict[str, Any], place: str) -> None:
    errors = list(checks[JobSpec].iter_errors(small(**changes)))
    assert {"/".join(map(str, error.absolute_path)) for error in errors} == {place}


def test_a_mistake_in_a_training_job_is_marked(checks: Checks) -> None:
    """Also where a job has its content, alone or beside the place of its networks."""
    content = yaml.safe_load((JOBS / "research/hippocampus/vaft.yaml").read_text())
    for training in ("adv.yaml", {"job": "adv.yaml"}, content, {"job": content, "out": "runs/x"}):
        assert list(checks[JobSpec].iter_errors(small(training=[training]))) == []
    content["models"][-1]["attack"] = {"name": "pdg"}
    assert list(checks[TrainJob].iter_errors(content)) != []
    for training in (content, {"job": content}, {"job": "adv.yaml", "outt": "x"}, 7):
        assert list(checks[JobSpec].iter_errors(small(training=[training]))) != []


def test_the_schema_accepts_valid_job_files(checks: Checks) -> None:
    attacks = [
        {"name": "pgd", "eps": ["8/255", 0.1], "steps": [5, 10], "organs": [["liver"], None], "step_size": "eps/4"},
        {"name": "fgsm", "match": [{"metric": "l2_body", "value": 1}], "datasets": "phantom", "sources": ["a"]},
        {"name": "vafa", "q_max": 20, "block": ["8x16x16", 8], "target": {"swap": {"liver": "spleen"}}},
        {"name": "mine.attack:Walk", "whatever": 1},
    ]
    datasets = [{"name": "phantom", "cases": 2}, {"name": "x", "loader": "mine:Data", "root": "y"}]
    assert list(checks[JobSpec].iter_errors(small(attacks=attacks, datasets=datasets))) == []


def test_all_of_the_tables_are_in_it() -> None:
    definitions = schema_of(JobSpec)["$defs"]
    assert {f"attack-{name}" for name in ATTACKS} | {each.__name__ for each in DATASETS.values()} <= set(definitions)
