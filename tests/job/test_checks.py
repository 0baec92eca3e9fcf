"""Mistakes in a job's keys and values are told without importing its classes, in the classes' words."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from attacks.examples import EXAMPLES
from tiny_job import expanded, job, small

from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.declared import declared
from freqbench.audit import diagnosis
from freqbench.core import config, names
from freqbench.core.errors import UserError
from freqbench.job import plan
from freqbench.job.schema import JobSpec, require_sound

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
    "dataset of an attack": {"attacks": [{"name": "fgsm", "eps": 0.1, "datasets": "phantm"}]},
    "source of an attack": {"attacks": [{"name": "fgsm", "eps": 0.1, "sources": ["a", "unte"]}]},
    "surrogate": {"attacks": [{"name": "bases", "eps": 0.1, "surrogates": [["b"], ["a", "bb"]]}]},
    "surrogates in one list": {"attacks": [{"name": "bases", "eps": 0.1, "surrogates": ["a", "b"]}]},
    "no list of surrogates": {"attacks": [{"name": "bases", "eps": 0.1, "surrogates": [[["a"]], 1]}]},
    "surrogates of none": {"attacks": [{"name": "fgsm", "eps": 0.1, "surrogates": [["c"]]}]},
    "class of an organ": {"attacks": [{"name": "fgsm", "eps": 0.1, "organs": [["livre"]]}]},
    "class of a target": {"attacks": [{"name": "fgsm", "eps": 0.1, "target": {"swap": {"liver": "splene"}}}]},
    "class swapped with itself": {"attacks": [{"name": "fgsm", "eps": 0.1, "target": {"swap": {"liver": "liver"}}}]},
    "organs beside a target": {
        "attacks": [
            {"name": "fgsm", "eps": 0.1, "organs": [["spleen"]], "target": [{"erase": "liver"}, "least-likely"]}
        ]
    },
    "table upside down": {"attacks": [{"name": "vafa", "q_min": [5, 30], "q_max": [40, 20]}]},
    "two norms": {"attacks": [{"name": "random_noise", "linf": 0.1, "l2": 1}]},
    "other labels": {"attacks": [{"name": "fgsm", "eps": 0.1, "targeted": True}]},
    "dataset twice": {"datasets": [{"name": "phantom"}] * 2},
    "model twice": {"models": [{"name": "a", "arch": "unet", "checkpoint": "random"}] * 2},
    "dataset of a model": {"models": [{"name": "a", "arch": "unet", "checkpoint": "random", "datasets": ["p"]}]},
    "member of an ensemble": {"models": [*job()["models"], {"name": "e", "ensemble": ["a", "c"]}]},
    "target": {"targets": ["a", "unte"]},
    "split": {"datasets": [{"name": "phantom", "split": "tset"}]},
    "split of a list": {"datasets": [{"name": "acdc", "root": ".", "split": "tset"}]},
    "no slice": {"datasets": [{"name": "acdc", "root": ".", "split": "test[0-4]"}]},
    "spacing": {"datasets": [{"name": "acdc", "root": ".", "spacing": [1, 1, 0]}]},
    "window": {"datasets": [{"name": "acdc", "root": ".", "intensity": {"window": [250, -175]}}]},
    "key of a dataset": {"datasets": [{"name": "phantom", "shap": [16, 16, 16]}]},
    "key of a loader": {"datasets": [{"name": "mine", "loader": "phantom", "root": "."}]},
    "key of a model": {"models": [{"name": "a", "arch": "unet", "chekpoint": "random"}]},
    **{
        f"class map {number}": {"models": [{**job()["models"][0], "classes": 7, "class_map": class_map}]}
        for number, class_map in enumerate(({9: [1]}, {1: [1], 2: [1]}, {1: [1]}, {1: [7]}, {}))
    },
    "other classes": {"models": [{**job()["models"][0], "classes": 7}]},
    "command without trust": {"models": [{"name": "a", "command": ["true", "{image}", "{labels}"]}]},
}


def check(content: Mapping[str, Any]) -> None:
    require_sound(config.validate(content, JobSpec, where="job.yaml"))


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_mistake_is_told_as_the_class_tells_it(changes: dict[str, Any]) -> None:
    content = job(**changes)
    with pytest.raises(UserError) as early:
        check(content)
    with pytest.raises(UserError) as late:
        expanded(content)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize(("name", "attack"), ATTACKS.items(), ids=ATTACKS)
def test_the_outline_of_an_attack_agrees_with_its_class(name: str, attack: type[Attack]) -> None:
    def said(cls: Any) -> list[Any]:
        taken = [(each.name, each.default, cls.parameters.get(each.name)) for each in fields(cls)]
        return [taken, cls.variants, inspect.getdoc(cls)]

    outline, usual = declared(name), make(name, **EXAMPLES[name])
    assert said(outline) == said(attack)
    assert (outline.budget_name, outline.threat_model) == (usual.budget_name, usual.threat_model)


@pytest.mark.parametrize("name", EXAMPLES)
def test_parameters_that_an_attack_takes_pass_the_check(name: str) -> None:
    check(job(attacks=[{"name": name, **EXAMPLES[name]}]))


def test_the_budget_may_be_left_to_match_and_nothing_else() -> None:
    matched = {"name": "pgd", "match": {"metric": "ssim_body", "value": 0.9}}
    check(job(attacks=[matched]))
    with pytest.raises(UserError, match=r"^job.yaml: attacks\[0\].steps: expected a whole number"):
        check(job(attacks=[{**matched, "steps": 0}]))


def test_foreign_names_are_left_to_dataset_and_class() -> None:
    organs = {"name": "fgsm", "eps": 0.1, "organs": [["liver"]], "target": {"swap": {"liver": "spleen"}}}
    check(job(attacks=[organs, {"name": "package.module:Class", "eps": -1}]))


@pytest.mark.parametrize("path", names.packaged_jobs().values(), ids=names.packaged_jobs())
def test_packaged_jobs_are_let_through(path: Path) -> None:
    content = config.read(str(path))
    if "networks" not in content and "attacks" in content:
        require_sound(config.validate(content, JobSpec, where=str(path)))


SHAPE = (24, 20, 16)
NAMES = {"0": "background", "1": "organ", "2": "nodule"}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """Three cases: as it should be, HU + 1024, and a nodule of two voxels."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij"))
    body = (place**2).sum(axis=0) < 0.9
    image, label = np.where(body, 40, -1000) + rng.normal(0, 10, SHAPE), np.zeros(SHAPE, np.uint8)
    label[8:16, 6:14, 4:12] = 1
    small_one = label.copy()
    small_one[10:12, 9, 7] = 2
    cases = {"fine": (image, label), "offset": (image + 1024, label), "tiny": (image, small_one)}
    for name, volumes in cases.items():
        for kind, voxels in zip(("imagesTr", "labelsTr"), volumes, strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            kept = voxels.astype(np.float32 if kind == "imagesTr" else np.uint8)
            nibabel.save(nibabel.Nifti1Image(kept, np.eye(4)), tmp_path / kind / f"{name}.nii.gz")
    listed = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in cases]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": NAMES, "validation": listed}))
    window = {"intensity": {"window": [-175, 250]}, "split": "validation", "spacing": [3, 3, 3]}
    return {"name": "d", "loader": "decathlon", "root": str(tmp_path), **window}


def test_a_plan_says_what_is_off_and_what_is_lost(data: dict[str, Any], tmp_path: Path) -> None:
    _, grid = expanded(small(datasets=[data]))
    about = [line for line in plan.outlook(grid, (), None, str(tmp_path / "out")).warnings if " of d: " in line]
    assert [line.partition(":")[0] for line in about] == ["offset of d", "tiny of d"]
    assert "subtract 1024" in about[0]
    assert about[1].endswith("2 of 2 voxels of `nodule` vanish at the spacing 3 x 3 x 3 mm")


def test_plan_reads_no_more_cases_once_its_time_is_over(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHECK_S", 0.0)
    _, grid = expanded(small(datasets=[data]))
    assert [*plan.data_check(plan.first_cases(grid.units()))] == []


def test_doctor_says_it_of_a_folder(data: dict[str, Any]) -> None:
    """The space is that of the job line, which has no window here: the crop of a label beside the body."""
    path, label = Path(data["root"]) / "labelsTr" / "fine.nii.gz", np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), path)
    image = np.full(SHAPE, -1000, np.float32)
    image[6:18, 5:15, 4:12] = np.random.default_rng(1).uniform(0, 100, (12, 10, 8))
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), Path(data["root"]) / "imagesTr" / "fine.nii.gz")
    lines = [line for name, line in diagnosis.diagnose(data["root"], None, None)[0] if name == "data"]
    assert any("1 of 1 voxels of `organ` lie outside the crop" in line for line in lines)
