"""What is wrong with a job's keys and values is told without the classes that it names, as these would tell it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import job_keys
import pytest
from attacks.examples import EXAMPLES
from tiny import expanded, job

from freqbench.core import config, names
from freqbench.core.errors import UserError
from freqbench.job.keys import require_keys
from freqbench.job.outline import Outline

WRONG: Mapping[str, dict[str, Any]] = {
    "unknown parameter": {"attacks": [{"name": "pgd", "eps": 0.1, "stepsize": 0.1}]},
    "no budget": {"attacks": [{"name": "pgd", "steps": 1}]},
    "no parameter": {"attacks": [{"name": "corruption", "severity": 1}]},
    "below the range": {"attacks": [{"name": "pgd", "eps": -1}]},
    "grey levels": {"attacks": [{"name": "fgsm", "eps": 0.1}, {"name": "pgd", "eps": ["1/255", 8]}]},
    "none of a count": {"attacks": [{"name": "pgd", "eps": 0.1, "steps": 0}]},
    "empty list": {"attacks": [{"name": "pgd", "eps": []}]},
    "text for a number": {"attacks": [{"name": "vafa", "q_max": "ten"}]},
    "block of no voxels": {"attacks": [{"name": "vafa", "block": "8x0x8"}]},
    "three sides of a slice's block": {"attacks": [{"name": "vafa_2d", "block": "8x8x8"}]},
    "word": {"attacks": [{"name": "pgd", "eps": 0.1, "loss": "dise"}]},
    "variant": {"attacks": [{"name": "sa2", "variant": "relased"}]},
    "kind": {"attacks": [{"name": "corruption", "kind": "blurr", "severity": 1}]},
    "step of a ratio": {"attacks": [{"name": "sa2", "step_size": 1}]},
    "filter": {"attacks": [{"name": "pgd", "eps": 0.1, "filter": {"kind": "low", "limits": 0}}]},
    "dataset of an attack": {"attacks": [{"name": "fgsm", "eps": 0.1, "datasets": "phantm"}]},
    "key of a dataset": {"datasets": [{"name": "phantom", "shap": [16, 16, 16]}]},
    "key of a loader": {"datasets": [{"name": "mine", "loader": "phantom", "root": "."}]},
    "key of a model": {"models": [{"name": "a", "arch": "unet", "chekpoint": "random"}]},
}


def outline(content: Mapping[str, Any]) -> Outline:
    return config.validate(content, Outline, where="job.yaml")


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_mistake_is_told_as_the_class_tells_it(changes: dict[str, Any]) -> None:
    content = job(**changes)
    with pytest.raises(UserError) as early:
        require_keys(outline(content), "job.yaml")
    with pytest.raises(UserError) as late:
        expanded(content)
    assert str(early.value) == str(late.value)


def test_the_keys_are_those_of_the_classes() -> None:
    assert job_keys.DOCUMENT.read_text() == job_keys.written(), "run: python tests/job_keys.py"


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_an_attack_takes_is_let_through(name: str) -> None:
    require_keys(outline(job(attacks=[{"name": name, **EXAMPLES[name]}])), "job.yaml")


def test_the_budget_may_be_left_to_match_and_nothing_else() -> None:
    matched = {"name": "pgd", "match": {"metric": "ssim_body", "value": 0.9}}
    require_keys(outline(job(attacks=[matched])), "job.yaml")
    with pytest.raises(UserError, match=r"^job.yaml: attacks\[0\].steps: expected a whole number"):
        require_keys(outline(job(attacks=[{**matched, "steps": 0}])), "job.yaml")


def test_names_of_classes_and_attacks_of_other_packages_are_left_to_the_dataset_and_the_class() -> None:
    organs = {"name": "fgsm", "eps": 0.1, "organs": [["liver"]], "target": {"swap": {"liver": "spleen"}}}
    require_keys(outline(job(attacks=[organs, {"name": "package.module:Class", "eps": -1}])), "job.yaml")


@pytest.mark.parametrize("path", names.packaged_jobs().values(), ids=names.packaged_jobs())
def test_packaged_jobs_are_let_through(path: Path) -> None:
    content = config.read(str(path))
    if "networks" not in content and "attacks" in content:
        require_keys(config.validate(content, Outline, where=str(path)), str(path))
