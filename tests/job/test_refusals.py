"""Mistakes in a job are one line that names the place, told without importing its classes, in their words."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from attacks.examples import EXAMPLES
from data import downloads
from tiny_job import expanded, job, small, write

from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.declared import declared
from freqbench.audit import diagnosis
from freqbench.core import config, names
from freqbench.core.errors import CheckpointError, DataError, UserError
from freqbench.core.names import packaged_jobs
from freqbench.job import plan, schema
from freqbench.job.grid import expand
from freqbench.job.schema import JobSpec, require_sound

Spoil = Callable[[dict[str, Any]], object]


def refusal(folder: Path, spoil: Spoil) -> str:
    content = job()
    spoil(content)
    path = write(folder, content)
    with pytest.raises(UserError) as caught:
        expand(config.load(path, JobSpec))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


MISTAKES: dict[str, tuple[Spoil, str, str]] = {
    "attack": (lambda c: c["attacks"][0].update(name="pdg"), "attacks[0]: unknown attack 'pdg'.", "'pgd'?"),
    "attack without name": (lambda c: c["attacks"][0].pop("name"), "attacks[0].name: required", "not given"),
    "list of attack names": (lambda c: c["attacks"][0].update(name=["pgd"]), "attacks[0].name:", "got ['pgd']"),
    "attack as a word": (lambda c: c["attacks"].insert(0, "pgd"), "attacks[0]:", "got 'pgd'"),
    "longest eps": (lambda c: c["attacks"][1].update(eps="9" * 5000), "attacks[1].eps: expected a number", "'9999"),
    "dataset key": (lambda c: c["datasets"][0].update(splt=1), "datasets[0]: unknown key 'splt'.", "'split'?"),
    "attack key": (lambda c: c["attacks"][1].update(esp=1), "attacks[1].esp: unknown parameter 'esp'.", "'eps'?"),
    "missing key": (lambda c: c.pop("models"), "models: required", "not given"),
    "missing parameter": (lambda c: c["attacks"][1].pop("eps"), "attacks[1].eps: required", "radius of the ball"),
    "eps in grey levels": (lambda c: c["attacks"][1].update(eps=8), "attacks[1].eps: expected a number", "8/255?"),
    "fraction of nothing": (lambda c: c["attacks"][1].update(eps="8/0"), "attacks[1].eps:", "got '8/0'"),
    "organ": (
        lambda c: c["attacks"][0].update(organs=[["liver"], ["splen"]]),
        "attacks[0].organs: phantom: unknown class 'splen'.",
        "'spleen'?",
    ),
    "organs as a list": (lambda c: c["attacks"][0].update(organs=["liver"]), "attacks[0].organs:", "a list of lists"),
    "target's organ": (
        lambda c: c["attacks"][0].update(target={"swap": {"liver": "splen"}}),
        "attacks[0].target: phantom: unknown class 'splen'.",
        "'spleen'?",
    ),
    "empty list": (lambda c: c["attacks"][0].update(eps=[]), "attacks[0].eps:", "got an empty list"),
    "no attacks": (lambda c: c.update(attacks=[]), "attacks: ", "at least 1"),
    "no targets": (lambda c: c.update(targets=[]), "targets: ", "at least 1"),
    "target": (lambda c: c.update(targets=["a", "unte"]), "targets[1]: unknown model 'unte'.", "Known: a, b"),
    "targets as a word": (lambda c: c.update(targets="a"), "targets: ", "'all' or 'source' or a valid list, got 'a'"),
    "threads of no machine": (  # torch ends without a word when it cannot start them
        lambda c: c["resources"].update(threads=100_000),
        "resources.threads: ",
        "'auto' or less than or equal to 512, got 100000",
    ),
    "threads": (lambda c: c["resources"].update(threads=0), "resources.threads: ", "'auto' or greater than 0, got 0"),
    "metric": (lambda c: c.update(metrics=["dcs"]), "metrics[0]: unknown metric 'dcs'.", "'dsc'?"),
    "no metrics": (lambda c: c.update(metrics=[]), "metrics: expected a list of at least 1, got []", ""),
    "seed twice": (lambda c: c.update(seeds=[3, 3]), "seeds: expected each once", "got 3 2 times"),
    "precision": (lambda c: c.update(precision="fp16"), "precision: ", "'fp32', 'tf32' or 'bf16', got 'fp16'"),
    "job name": (lambda c: c.update(name="a/b"), "name: ", "got 'a/b'"),
    "key that is a number": (lambda c: c.update({3: 4}), "[3]: Keys should be strings", "got 3"),
    "loader": (lambda c: c["datasets"][0].update(loader="decatlon"), "datasets[0].loader: unknown", "'decathlon'?"),
    "dataset without name": (lambda c: c["datasets"][0].pop("name"), "datasets[0].name: required", "not given"),
    "split": (lambda c: c["datasets"][0].update(split="tset"), "datasets[0]: phantom: unknown split", "'test'?"),
    "too many cases": (lambda c: c["datasets"][0].update(cases=21), "datasets[0]: phantom: expected at most 20", "21"),
    "no cases": (
        lambda c: c["datasets"][0].update(cases=[]),
        "datasets[0]: phantom: expected at least one case",
        "none",
    ),
    "two models of a name": (lambda c: c["models"][1].update(name="a"), "models[1].name: 'a' is taken", "own name"),
    "one model twice": (
        lambda c: c["models"].append({**c["models"][0], "name": "c"}),
        "models[2]: c: the same network with the same weights as a",
        "once",
    ),
    "architecture": (lambda c: c["models"][0].update(arch="unett"), "models[0].arch: unknown architecture", "'unet'?"),
    "dataset of one": (lambda c: c.update(dataset=c.pop("datasets")), "unknown key 'dataset'.", "'datasets'?"),
    "datasets without dashes": (lambda c: c.update(datasets=c["datasets"][0]), "datasets: ", "between brackets, [a"),
    "model as a word": (lambda c: c["models"].insert(0, "unet"), "models[0]: ", "got 'unet': write its keys, {name: "),
    "window beside": (lambda c: c["models"][0].update(overlap=0.3), "models[0]: unknown key 'overlap'", "`inference`"),
    "workers beside": (lambda c: c.update(workers=4), "unknown key 'workers'", "is a key inside `resources`: write it"),
    "arguments beside": (lambda c: c["models"][0].update(strides=[2]), "models[0]: unknown key 'strides'", "'args'?"),
    "weights": (lambda c: c["models"][0].update(weights="a.pt"), "models[0]: unknown key 'weights'.", "'checkpoint'?"),
    "window size": (lambda c: c["models"][0].update(patch_size=[8]), "models[0]: unknown key 'patch_size'.", "'roi'?"),
    "labels of a model": (
        lambda c: c["models"][0].update(label_map={2: 1}),
        "models[0]: unknown key 'label_map'",
        "a key of a dataset",
    ),
    "classes of a dataset": (
        lambda c: c["datasets"][0].update(class_map={1: [2]}),
        "datasets[0]: unknown key 'class_map'",
        "it is a key of a model: write it in that entry",
    ),
    "data set's name alone": (
        lambda c: c["datasets"][0].update(name="mine"),
        "datasets[0].loader: expected a loader beside the name 'mine', got none: give one of acdc, amos, decathlon",
        "freqbench doctor --data FOLDER names it",
    ),
    "saved volumes": (
        lambda c: c.update(save_adversarial=True),
        "save_adversarial: expected 'none' or 'nifti'",
        "got True",
    ),
    "volumes of an attack that is not there": (
        lambda c: c.update(save_adversarial="nifti", save_only=["sa2"]),
        "save_only: unknown attack 'sa2'",
        "Known: ",
    ),
    "name that is no text": (lambda c: c.update(name=1.10), "name: ", "got 1.1: put a name that YAML reads otherwise"),
    "no checkpoint": (lambda c: c["models"][0].update(checkpoint="no.pt"), "models[0]: no.pt: expected a file", "path"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_place_and_hint(mistake: str, tmp_path: Path) -> None:
    spoil, place, hint = MISTAKES[mistake]
    text = refusal(tmp_path, spoil)
    assert text.startswith(place)
    assert hint in text


def test_too_few_classes_for_a_loss(tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["datasets"].append(make_folder(tmp_path))
        content["attacks"][0].update(loss=["ce", "dlr", "dlr-targeted"], target="next-class")

    expected = "attacks[0].loss: folder: expected at least 4 classes for dlr-targeted, got 3: use ce"
    assert refusal(tmp_path, spoil) == expected


def test_attacks_are_refused_before_a_model_is_looked_at(tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["models"][0].update(checkpoint="no.pt")
        content["attacks"][1].update(organs=[["livr"]])

    assert refusal(tmp_path, spoil).startswith("attacks[1].organs: phantom: unknown class 'livr'.")


def make_folder(root: Path) -> dict[str, Any]:
    downloads.decathlon(root, {"validation": ["c"]})
    return {"name": "folder", "loader": "decathlon", "root": str(root), "split": "validation"}


@pytest.mark.parametrize("root", [{"path": 1}, {"folder": 1}, {"data": 1}])
def test_another_word_for_the_root_is_known(tmp_path: Path, root: dict[str, int]) -> None:
    (word,) = root

    def spoil(content: dict[str, Any]) -> None:
        entry = make_folder(tmp_path)
        content["datasets"].append({**entry, word: entry.pop("root")})

    assert refusal(tmp_path, spoil).startswith(f"datasets[1]: unknown key '{word}'. Did you mean 'root'? Known: axes")


def test_a_split_without_cases_is_not_offered(tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["datasets"].append(make_folder(tmp_path) | {"split": "test"})
        listed = json.loads((tmp_path / "dataset.json").read_text())
        (tmp_path / "dataset.json").write_text(json.dumps({**listed, "test": [], "spare": []}))

    assert refusal(tmp_path, spoil).endswith("expected cases in split test, got none: choose one of validation")


def test_a_folder_in_place_of_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    text = refusal(tmp_path, lambda content: content["models"][0].update(checkpoint=str(tmp_path / "net")))
    assert text == f"models[0]: {tmp_path / 'net'}: expected a file, found none, but a folder: name the file in it"


def test_a_job_of_another_kind_names_its_command() -> None:
    path = packaged_jobs()["research/phantom/zoo"]
    with pytest.raises(UserError, match=f"{path}: expected a job with attacks, got a training job: freqbench run"):
        schema.load(str(path))


def test_a_reference_needs_a_second_case(tmp_path: Path) -> None:
    """Before anything is computed; the same dataset serves attacks that need none."""

    def spoil(content: dict[str, Any]) -> None:
        content["datasets"] = [make_folder(tmp_path)]
        content["attacks"].append({"name": "faa"})

    assert refusal(tmp_path, spoil) == (
        "datasets[0]: folder: expected another case beside c in the split 'validation', which an attack takes as its "
        "reference, got none: choose a split of two cases or more"
    )


def test_the_kinds_of_errors_stay(tmp_path: Path) -> None:
    """A DataError or CheckpointError keeps its type, place or not."""
    for spoil, kind in (
        (lambda c: c["datasets"][0].update(split="x"), DataError),
        (lambda c: c["models"][0].update(checkpoint="x"), CheckpointError),
    ):
        content = job()
        spoil(content)
        with pytest.raises(kind):
            expand(config.validate(content, JobSpec, "job"))


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
    path = Path(data["root"]) / "labelsTr" / "fine.nii.gz"
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), path)
    image = np.full(SHAPE, -1000, np.float32)
    image[6:18, 5:15, 4:12] = np.random.default_rng(1).uniform(0, 100, (12, 10, 8))
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), Path(data["root"]) / "imagesTr" / "fine.nii.gz")
    lines = [line for name, line in diagnosis.diagnose(data["root"], None, None)[0] if name == "data"]
    assert any("1 of 1 voxels of `organ` lie outside the crop" in line for line in lines)
