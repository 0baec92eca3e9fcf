"""Mistakes in a job are one line that names the place, told without importing its classes, in their words."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.examples import EXAMPLES
from data import downloads
from data.downloads import put
from tiny_job import JOB, expanded, job, small, write

from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.declared import declared
from freqbench.audit import diagnosis
from freqbench.core import config, names
from freqbench.core.errors import CheckpointError, DataError, UserError
from freqbench.core.names import packaged_jobs
from freqbench.job import plan, schema
from freqbench.job.grid import expand
from freqbench.job.schema import JobSpec, require_sound

from .places import GONE, Changes, changed


def refusal(folder: Path, changes: Changes) -> str:
    path = write(folder, changed(job(), changes))
    with pytest.raises(UserError) as caught:
        expand(config.load(path, JobSpec))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("changes", "place", "hint"),
    [
        ({"attacks.0.name": "pdg"}, "attacks[0]: unknown attack 'pdg'.", "'pgd'?"),
        ({"attacks.0": {"eps": 0.1}}, "attacks[0].name: required", "not given"),
        ({"attacks.0.name": ["pgd"]}, "attacks[0].name:", "got ['pgd']"),
        ({"attacks.0": "pgd"}, "attacks[0]:", "got 'pgd'"),
        ({"attacks.1.eps": "9" * 5000}, "attacks[1].eps: expected a number", "'9999"),
        ({"datasets.0.splt": 1}, "datasets[0]: unknown key 'splt'.", "'split'?"),
        ({"attacks.1.esp": 1}, "attacks[1].esp: unknown parameter 'esp'.", "'eps'?"),
        ({"models": GONE}, "models: required", "not given"),
        ({"attacks.1.eps": GONE}, "attacks[1].eps: required", "radius of the ball"),
        ({"attacks.1.eps": 8}, "attacks[1].eps: expected a number", "8/255?"),
        ({"attacks.1.eps": "8/0"}, "attacks[1].eps:", "got '8/0'"),
        (
            {"attacks.0.organs": [["liver"], ["splen"]]},
            "attacks[0].organs: phantom: unknown class 'splen'.",
            "'spleen'?",
        ),
        ({"attacks.0.organs": ["liver"]}, "attacks[0].organs:", "a list of lists"),
        (
            {"attacks.0.target": {"swap": {"liver": "splen"}}},
            "attacks[0].target: phantom: unknown class 'splen'.",
            "'spleen'?",
        ),
        ({"attacks.0.eps": []}, "attacks[0].eps:", "got an empty list"),
        ({"attacks": []}, "attacks: ", "at least 1"),
        ({"targets": []}, "targets: ", "at least 1"),
        ({"targets": ["a", "unte"]}, "targets[1]: unknown model 'unte'.", "Known: a, b"),
        ({"targets": "a"}, "targets: ", "'all' or 'source' or a valid list, got 'a'"),
        ({"resources.threads": 100000}, "resources.threads: ", "'auto' or less than or equal to 512, got 100000"),
        ({"resources.threads": 0}, "resources.threads: ", "'auto' or greater than 0, got 0"),
        ({"metrics": ["dcs"]}, "metrics[0]: unknown metric 'dcs'.", "'dsc'?"),
        ({"metrics": []}, "metrics: expected a list of at least 1, got []", ""),
        ({"seeds": [3, 3]}, "seeds: expected each once", "got 3 2 times"),
        ({"precision": "fp16"}, "precision: ", "'fp32', 'tf32' or 'bf16', got 'fp16'"),
        ({"name": "a/b"}, "name: ", "got 'a/b'"),
        ({"3": 4}, "[3]: Keys should be strings", "got 3"),
        ({"datasets.0.loader": "decatlon"}, "datasets[0].loader: unknown", "'decathlon'?"),
        ({"datasets.0.name": GONE}, "datasets[0].name: required", "not given"),
        ({"datasets.0.split": "tset"}, "datasets[0]: phantom: unknown split", "'test'?"),
        ({"datasets.0.cases": 21}, "datasets[0]: phantom: expected at most 20", "21"),
        ({"datasets.0.cases": []}, "datasets[0]: phantom: expected at least one case", "none"),
        ({"models.1.name": "a"}, "models[1].name: 'a' is taken", "own name"),
        (
            {"models.1": {**JOB["models"][0], "name": "c"}},
            "models[1]: c: the same network with the same weights as a",
            "once",
        ),
        ({"models.0.arch": "unett"}, "models[0].arch: unknown architecture", "'unet'?"),
        ({"dataset": [], "datasets": GONE}, "unknown key 'dataset'.", "'datasets'?"),
        ({"datasets": {"name": "phantom"}}, "datasets: ", "between brackets, [a"),
        ({"models.0": "unet"}, "models[0]: ", "got 'unet': write its keys, {name: "),
        ({"models.0.overlap": 0.3}, "models[0]: unknown key 'overlap'", "`inference`"),
        ({"workers": 4}, "unknown key 'workers'", "is a key inside `resources`: write it"),
        ({"models.0.strides": [2]}, "models[0]: unknown key 'strides'", "'args'?"),
        ({"models.0.weights": "a.pt"}, "models[0]: unknown key 'weights'.", "'checkpoint'?"),
        ({"models.0.patch_size": [8]}, "models[0]: unknown key 'patch_size'.", "'roi'?"),
        ({"models.0.label_map": {2: 1}}, "models[0]: unknown key 'label_map'", "a key of a dataset"),
        (
            {"datasets.0.class_map": {1: [2]}},
            "datasets[0]: unknown key 'class_map'",
            "it is a key of a model: write it in that entry",
        ),
        (
            {"datasets.0.name": "mine"},
            "datasets[0].loader: expected a loader beside the name 'mine', got none: give one of acdc, amos, decathlon",
            "freqbench doctor --data FOLDER names it",
        ),
        ({"save_adversarial": True}, "save_adversarial: expected 'none' or 'nifti'", "got True"),
        ({"save_adversarial": "nifti", "save_only": ["sa2"]}, "save_only: unknown attack 'sa2'", "Known: "),
        ({"name": 1.1}, "name: ", "got 1.1: put a name that YAML reads otherwise"),
        ({"models.0.checkpoint": "no.pt"}, "models[0]: no.pt: expected a file", "path"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_with_place_and_hint(changes: Changes, place: str, hint: str, tmp_path: Path) -> None:
    text = refusal(tmp_path, changes)
    assert text.startswith(place)
    assert hint in text


def test_too_few_classes_for_a_loss(tmp_path: Path) -> None:
    changes = {"attacks.0.loss": ["ce", "dlr", "dlr-targeted"], "attacks.0.target": "next-class"}
    expected = "attacks[0].loss: folder: expected at least 4 classes for dlr-targeted, got 3: use ce"
    assert refusal(tmp_path, {"datasets": [make_folder(tmp_path)], **changes}) == expected


def test_attacks_are_refused_before_a_model_is_looked_at(tmp_path: Path) -> None:
    changes = {"models.0.checkpoint": "no.pt", "attacks.1.organs": [["livr"]]}
    assert refusal(tmp_path, changes).startswith("attacks[1].organs: phantom: unknown class 'livr'.")


def make_folder(root: Path) -> dict[str, Any]:
    downloads.decathlon(root, {"validation": ["c"]})
    return {"name": "folder", "loader": "decathlon", "root": str(root), "split": "validation"}


@pytest.mark.parametrize("word", ["path", "folder", "data"])
def test_another_word_for_the_root_is_known(tmp_path: Path, word: str) -> None:
    entry = make_folder(tmp_path)
    changes = {"datasets": [{**entry, word: entry.pop("root")}]}
    assert refusal(tmp_path, changes).startswith(f"datasets[0]: unknown key '{word}'. Did you mean 'root'? Known: axes")


def test_a_split_without_cases_is_not_offered(tmp_path: Path) -> None:
    entry = make_folder(tmp_path) | {"split": "test"}
    listed = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**listed, "test": [], "spare": []}))
    line = refusal(tmp_path, {"datasets": [entry]})
    assert line.endswith("expected cases in split test, got none: choose one of validation")


def test_a_folder_in_place_of_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    text = refusal(tmp_path, {"models.0.checkpoint": str(tmp_path / "net")})
    assert text == f"models[0]: {tmp_path / 'net'}: expected a file, found none, but a folder: name the file in it"


def test_a_job_of_another_kind_names_its_command() -> None:
    path = packaged_jobs()["research/phantom/zoo"]
    with pytest.raises(UserError, match=f"{path}: expected a job with attacks, got a training job: freqbench run"):
        schema.load(str(path))


def test_a_reference_needs_a_second_case(tmp_path: Path) -> None:
    """Before anything is computed; the same dataset serves attacks that need none."""
    assert refusal(tmp_path, {"datasets": [make_folder(tmp_path)], "attacks.0": {"name": "faa"}}) == (
        "datasets[0]: folder: expected another case beside c in the split 'validation', which an attack takes as its "
        "reference, got none: choose a split of two cases or more"
    )


@pytest.mark.parametrize(
    ("changes", "kind"), [({"datasets.0.split": "x"}, DataError), ({"models.0.checkpoint": "x"}, CheckpointError)]
)
def test_the_kinds_of_errors_stay(changes: Changes, kind: type[Exception]) -> None:
    """A DataError or CheckpointError keeps its type, place or not."""
    with pytest.raises(kind):
        expand(config.validate(changed(job(), changes), JobSpec, "job"))


def check(content: Mapping[str, Any]) -> None:
    require_sound(config.validate(content, JobSpec, where="job.yaml"))


WRONG: list[dict[str, Any]] = [
    *(
        {"attacks": [attack]}
        for attack in (
            {"name": "pgd", "eps": 0.1, "stepsize": 0.1},
            {"name": "pgd", "steps": 1},
            {"name": "pgd", "eps": []},
            {"name": "vafa", "block": "8x0x8"},
            {"name": "corruption", "kind": "blurr", "severity": 1},
            {"name": "fgsm", "eps": 0.1, "datasets": "phantm"},
            {"name": "fgsm", "eps": 0.1, "sources": ["a", "unte"]},
            {"name": "bases", "eps": 0.1, "surrogates": [["b"], ["a", "bb"]]},
            {"name": "bases", "eps": 0.1, "surrogates": ["a", "b"]},
            {"name": "bases", "eps": 0.1, "surrogates": [[["a"]], 1]},
            {"name": "fgsm", "eps": 0.1, "surrogates": [["c"]]},
            {"name": "fgsm", "eps": 0.1, "organs": [["livre"]]},
            {"name": "fgsm", "eps": 0.1, "target": {"swap": {"liver": "splene"}}},
            {"name": "fgsm", "eps": 0.1, "target": {"swap": {"liver": "liver"}}},
            {"name": "fgsm", "eps": 0.1, "organs": [["spleen"]], "target": [{"erase": "liver"}, "least-likely"]},
            {"name": "vafa", "q_min": [5, 30], "q_max": [40, 20]},
            {"name": "random_noise", "linf": 0.1, "l2": 1},
        )
    ),
    {"attacks": [{"name": "fgsm", "eps": 0.1}, {"name": "pgd", "eps": ["1/255", 8]}]},
    {"datasets": [{"name": "phantom"}] * 2},
    {"models": [{"name": "a", "arch": "unet", "checkpoint": "random"}] * 2},
    {"models": [{"name": "a", "arch": "unet", "checkpoint": "random", "datasets": ["p"]}]},
    {"models": [*JOB["models"], {"name": "e", "ensemble": ["a", "c"]}]},
    {"targets": ["a", "unte"]},
    {"datasets": [{"name": "phantom", "split": "tset"}]},
    {"datasets": [{"name": "acdc", "root": ".", "split": "tset"}]},
    {"datasets": [{"name": "acdc", "root": ".", "split": "test[0-4]"}]},
    {"datasets": [{"name": "acdc", "root": ".", "spacing": [1, 1, 0]}]},
    {"datasets": [{"name": "acdc", "root": ".", "intensity": {"window": [250, -175]}}]},
    {"datasets": [{"name": "phantom", "shap": [16, 16, 16]}]},
    {"datasets": [{"name": "mine", "loader": "phantom", "root": "."}]},
    {"models": [{"name": "a", "arch": "unet", "chekpoint": "random"}]},
    {"models": [{**JOB["models"][0], "classes": 7}]},
    {"models": [{"name": "a", "command": ["true", "{image}", "{labels}"]}]},
    *(
        {"models": [{**JOB["models"][0], "classes": 7, "class_map": class_map}]}
        for class_map in ({9: [1]}, {1: [1], 2: [1]}, {1: [1]}, {1: [7]}, {})
    ),
]
"""Changes of a job that its classes refuse, and that are refused in their words before one is imported."""


@pytest.mark.parametrize("changes", WRONG, ids=str)
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

    outline = declared(name)
    usual = make(name, **EXAMPLES[name])
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
    body = (np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")) ** 2).sum(axis=0) < 0.9
    image = np.where(body, 40, -1000) + rng.normal(0, 10, SHAPE)
    label = np.zeros(SHAPE, np.uint8)
    label[8:16, 6:14, 4:12] = 1
    small_one = label.copy()
    small_one[10:12, 9, 7] = 2
    cases = {"fine": (image, label), "offset": (image + 1024, label), "tiny": (image, small_one)}
    for name, volumes in cases.items():
        for kind, voxels in zip(("imagesTr", "labelsTr"), volumes, strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            kept = voxels.astype(np.float32 if kind == "imagesTr" else np.uint8)
            put(tmp_path / kind / f"{name}.nii.gz", kept)
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
    path = Path(data["root"]) / "labelsTr" / "fine.nii.gz"
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = 1
    put(path, label)
    image = np.full(SHAPE, -1000, np.float32)
    image[6:18, 5:15, 4:12] = np.random.default_rng(1).uniform(0, 100, (12, 10, 8))
    put(Path(data["root"]) / "imagesTr" / "fine.nii.gz", image)
    lines = [line for name, line in diagnosis.diagnose(data["root"], None, None)[0] if name == "data"]
    assert any("1 of 1 voxels of `organ` lie outside the crop" in line for line in lines)
