"""Every key of a job moves the keys of its rows or has a reason not to; its JSON Schema takes packaged jobs."""

import copy
import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from attacks.examples import CLASSES, SETTINGS
from data.conftest import Folder
from data.downloads import put, volume
from engine.cases import row_keys
from pydantic import BaseModel
from tiny_job import ARGS, JOB, SHAPE, save_weights, small

from freqbench.attacks import ATTACKS, make
from freqbench.core.config import validate
from freqbench.core.plugins import trusting
from freqbench.data import DATASETS
from freqbench.data.scans import ImageFiles
from freqbench.job.attacks import attack_identity
from freqbench.job.grid import expand
from freqbench.job.json_schema import schema_of
from freqbench.job.schema import JobSpec, Resources, build_dataset
from freqbench.job.sweep import AttackEntry, Budget, Match
from freqbench.models import ModelEntry, resolve
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.defences.base import Defence
from freqbench.models.defences.table import DEFENCES
from freqbench.models.entry import Inference, InputAdapter, Trained
from freqbench.training import TrainJob

from .places import Changes, changed

Line = tuple[Changes, Changes]  # a job, its places changed, and what is then changed beside

CHOOSES = "chooses cases, models or cells, all of which have their own keys"
ASKS = "asks for budgets, which `matched.parameters` gives"
PARTS = "holds entries whose keys are here"
RUNS = "says how the work is carried out; rows tell it"
STOPS = "ends a run, or a unit, that goes wrong"
SHOWN = "is shown, or names something"
PLACE = "is a place, whose content is in the keys"

PGD = small(attacks=[{"name": "pgd", "eps": "8/255", "steps": 2}])
A, B = JOB["models"]
C = {**B, "name": "c", "checkpoint": "random:1"}
NOISE = {"attacks.0": {"name": "gn", "std": 0.1}, "trust_code": True}
COMMAND = {"name": "a", "command": ["cp", "{image}", "{labels}"]}
MERGED = {"models.0.classes": 7, "models.0.class_map": {k: [k] for k in range(1, 6)}}
L2 = {"metric": "l2_body", "value": 1.5}
FOUND = {"dataset": "phantom", "source": "a", "match": L2, "reached": 1.5}
TRAINED = {
    "models.0": {
        **{"name": "a", "checkpoint": "train://a"},
        "trained": {"checkpoint": "ROOT/a.safetensors", "identity": "0" * 16, "weights": "SHA256"},
    }
}
JOINED = {"models.0.transforms": [{"_target_": "ConcatItemsd", "keys": ["a", "b"], "name": "image"}]}
STEPS = {"models.0.transforms": [{"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"}]}
PAIRS = {"name": "p", "loader": "pairs", "image": "{case}_0.nii.gz", "label": "{case}_seg{rater}.nii.gz", "rater": 1}
PAIRED = {"datasets.0": {**PAIRS, "root": "ROOT", "labels": 3}}
LISTED = {"datasets.0": {"name": "l", "loader": "decathlon", "root": "ROOT", "split": "validation"}}
TWO = {"datasets.0": {**PAIRED["datasets.0"], "image": ["{case}_0.nii.gz", "{case}_1.nii.gz"]}}
STAND_IN = {"datasets.0": {"name": "s", "loader": "stand_in", "shape": SHAPE, "classes": ["no", "yes"], "cases": 1}}
STRUCTURES = {"datasets.0": {"name": "t", "loader": "totalsegmentator", "root": "none", "classes": ["liver"]}}

WINDOWS = {"average": "probabilities", "mirror": "H", "overlap": [0.5, 0.5, 0.25], "padding": "reflect", "whole": "D"}
WINDOWS |= {"weighting": "gaussian", "windows": "even"}
INPUT = {"axes": "D-WH", "mean": 0.5, "scale": [0, 255], "std": 2}
SPACE = {"crop_foreground": False, "intensity": "minmax", "resampling": "nnunet"}
SPACE |= {name: [16, 16, 16] for name in ("pad_to", "size", "spacing")}

MOVING: dict[str, Line] = {
    "matched.parameters": (
        {"attacks.0": {"name": "pgd", "match": L2, "matched": [{**FOUND, "parameters": {"eps": 0.1}}]}},
        {"attacks.0.matched": [{**FOUND, "parameters": {"eps": 0.2}}]},
    ),
    "attack.name": ({}, {"attacks.0.name": "bim"}),
    "job.compile": ({}, {"compile": True}),
    "job.precision": ({}, {"precision": "bf16"}),
    "job.score_on": ({}, {"score_on": "file"}),
    "job.seeds": ({}, {"seeds": [1]}),
    "job.window_batch": ({"attacks.0.name": "segpgd", "attacks.0.variant": "released"}, {"window_batch": 3}),
    "model.adaptive": ({"models.0.defence": {"name": "bit_depth", "bits": 3}}, {"models.0.adaptive": False}),
    "model.arch": ({}, {"models.0.arch": "segresnet", "models.0.args": {"init_filters": 8}}),
    "model.args": ({}, {"models.0.args": {**ARGS, "num_res_units": 1}}),
    "model.bounds": ({**LISTED, **STEPS}, {"models.0.bounds": [[0, 100]]}),
    "model.channels": ({**TWO, **JOINED}, {"models.0.channels": {"a": 1, "b": 0}}),
    "model.checkpoint": ({}, {"models.0.checkpoint": "random:1"}),
    "model.class_map": (MERGED, {"models.0.class_map": {1: [2], 2: [1], **{k: [k] for k in range(3, 6)}}}),
    "model.classes": (MERGED, {"models.0.classes": 8}),
    "model.command": ({**NOISE, "models.0": COMMAND}, {"models.0.command": ["cp", "-f", "{image}", "{labels}"]}),
    "model.defence": ({}, {"models.0.defence": {"name": "bit_depth", "bits": 3}}),
    "model.ensemble": (
        {"attacks.0.sources": "e", "targets": "source", "models": [A, B, C, {"name": "e", "ensemble": ["a", "b"]}]},
        {"models.3.ensemble": ["a", "c"]},
    ),
    "model.format": ({**NOISE, "models.0": COMMAND}, {"models.0.format": ".mha"}),
    "model.preprocess": ({}, {"models.0.preprocess": {"pad_to": [32, 32, 32]}}),
    "model.roi": ({}, {"models.0.roi": [16, 16, 8]}),
    "model.transforms": (LISTED, STEPS),
    "inference.sigma": ({"models.0.inference": {"weighting": "gaussian"}}, {"models.0.inference.sigma": 0.25}),
    "inference.attack_mirrors": ({"models.0.inference": {"mirror": "H"}}, {"models.0.inference.attack_mirrors": True}),
    **{f"inference.{name}": ({}, {"models.0.inference": {name: value}}) for name, value in WINDOWS.items()},
    **{f"input.{name}": ({}, {"models.0.input": {name: value}}) for name, value in INPUT.items()},
    **{f"Preprocess.{name}": (LISTED, {f"datasets.0.{name}": value}) for name, value in SPACE.items()},
    "trained.identity": (TRAINED, {"models.0.trained.identity": "1" * 16}),
    "Dataset.reference": ({}, {"datasets.0.reference": "prediction"}),
    "ListedFolder.ignore": (LISTED, {"datasets.0.ignore": [2]}),
    "ListedFolder.label_map": (LISTED, {"datasets.0.label_map": {1: 2, 2: 1}}),
    "ListedFolder.labels": (LISTED, {"datasets.0.labels": ["background", "one", "two"]}),
    "ListedFolder.regions": (LISTED, {"datasets.0.regions": {"both": [1, 2], "left": [1]}}),
    "Pairs.image": (PAIRED, {"datasets.0.image": "{case}_1.nii.gz"}),
    "Pairs.label": (PAIRED, {"datasets.0.label": "{case}_map{rater}.nii.gz"}),
    "Pairs.rater": (PAIRED, {"datasets.0.rater": 2}),
    "Phantom.regions": ({}, {"datasets.0.regions": True}),
    "Phantom.shape": ({}, {"datasets.0.shape": [24, 20, 17]}),
    "StandIn.channels": (STAND_IN, {"datasets.0.channels": 2}),
    "StandIn.classes": (STAND_IN, {"datasets.0.classes": ["no", "yes", "or"]}),
    "TotalSegmentator.classes": (STRUCTURES, {"datasets.0.classes": ["liver", "spleen"]}),
}
OF_SPEC: dict[str, Changes] = {  # keys that need files of others, by what they become
    "model.bundle": {"checkpoint_sha256": "0" * 64},
    "model.migration": {"migration": "monai-1.3"},
    "model.outputs": {"head": "sigmoid"},
    "model.prefix": {"prefix": "ema_model."},
    "trained.weights": {"weights_sha256": "0" * 64},
}
STILL: dict[str, tuple[str, Line | None]] = {
    **dict.fromkeys(("job.attacks", "job.datasets", "job.models", "job.resources", "model.trained"), (PARTS, None)),
    **dict.fromkeys(("attack.matched", "model.inference", "model.input"), (PARTS, None)),
    **dict.fromkeys(("attack.match", "match.cases", "match.metric", "match.value"), (ASKS, None)),
    **dict.fromkeys(("matched.dataset", "matched.source", "model.replicates"), (CHOOSES, None)),
    **dict.fromkeys(("Decathlon.fold", "DicomFolders.series", "NnunetRaw.fold"), (CHOOSES, None)),
    **dict.fromkeys(("AMOS.modality", "MSD.task"), ("chooses files, which are in the keys, and a default", None)),
    "NnunetRaw.splits_file": (PLACE, None),
    **dict.fromkeys(("matched.match", "matched.reached"), (SHOWN, None)),
    "attack.datasets": (CHOOSES, ({}, {"attacks.0.datasets": "phantom"})),
    "attack.sources": (CHOOSES, ({}, {"attacks.0.sources": ["a"]})),
    "job.case_timeout": (STOPS, ({}, {"case_timeout": 9})),
    "job.metrics": ("adds columns: rows say which metrics they have", ({}, {"metrics": ["psnr"]})),
    "job.name": (SHOWN, ({}, {"name": "other"})),
    "job.save_adversarial": ("writes volumes beside rows", ({}, {"save_adversarial": "nifti"})),
    "job.save_only": ("writes volumes beside rows", ({"save_adversarial": "nifti"}, {"save_only": ["pgd"]})),
    "job.targets": (CHOOSES, ({"models": [A, B]}, {"targets": ["a"]})),
    "job.training": ("makes the networks that `trained` tells", ({}, {"training": ["none.yaml"]})),
    "job.trust_code": ("allows code, which is in the keys", ({}, {"trust_code": True})),
    "resources.gpus_per_worker": (RUNS, ({}, {"resources.gpus_per_worker": 0})),
    "resources.threads": (RUNS, ({}, {"resources.threads": 2})),
    "resources.workers": (RUNS, ({}, {"resources.workers": 2})),
    "model.datasets": (CHOOSES, ({}, {"models.0.datasets": ["phantom"]})),
    "model.expected_dice": (STOPS, (TRAINED, {"models.0.expected_dice": 0.9})),
    "model.predictions": (STOPS, None),
    "model.name": (SHOWN, ({}, {"models.0.name": "other"})),
    "model.source": (SHOWN, ({}, {"models.0.source": "https://example.org"})),
    "model.timeout": (STOPS, ({**NOISE, "models.0": COMMAND}, {"models.0.timeout": 9})),
    "trained.checkpoint": (PLACE, (TRAINED, {"models.0.trained.checkpoint": "COPY/a.safetensors"})),
    "trained.method": ("joins networks of several seeds in tables", (TRAINED, {"models.0.trained.method": "1" * 16})),
    "Dataset.cases": (CHOOSES, (LISTED, {"datasets.0.cases": 2})),
    "Dataset.name": (SHOWN, ({}, {"datasets.0": {"name": "x", "loader": "phantom", "shape": SHAPE, "cases": 1}})),
    "Dataset.patient": ("groups cases in tables", (LISTED, {"datasets.0.patient": "."})),
    "Dataset.share": ("keeps pictures back", ({}, {"datasets.0.share": False})),
    "Dataset.split": (CHOOSES, (LISTED, {"datasets.0.split": "validation[1:]"})),
    "Decathlon.list": (PLACE, (LISTED, {"datasets.0.list": "copy.json"})),
    "ListedFolder.root": (PLACE, (LISTED, {"datasets.0.root": "COPY"})),
    "Preprocess.axes": ("has one value", (LISTED, {"datasets.0.axes": "RAS"})),
    "TotalSegmentator.modality": ("gives the default of `intensity`", (STRUCTURES, {"datasets.0.modality": "ct"})),
}


def schema() -> Iterator[str]:
    """The keys of a job; those of data sets under the class that first has them."""
    kinds: tuple[type[BaseModel], ...] = (JobSpec, Resources, AttackEntry, Match, Budget)
    kinds = (*kinds, ModelEntry, Trained, Inference, InputAdapter)
    names = ("job", "resources", "attack", "match", "matched", "model", "trained", "inference", "input")
    for owner, kind in zip(names, kinds, strict=True):
        yield from (f"{owner}.{name}" for name in kind.model_fields)
    for loader in DATASETS.values():
        for name, field in loader.model_fields.items():
            *_, first = (each for each in loader.__mro__ if name in vars(each).get("__annotations__", ()))
            yield f"{first.__name__}.{field.alias or name}"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Two equal folders of small volumes and weights, and a hash, by the words that stand for them in lines."""
    top = tmp_path_factory.mktemp("places")
    for name in ("data", "copy"):
        Folder(top / name)
        shutil.copy(top / name / "dataset.json", top / name / "copy.json")
        save_weights(top / name / "a.safetensors")
        for seed, end in enumerate(("0", "1", "seg1", "seg2", "map1", "map2")):
            put(top / name / f"k_{end}.nii.gz", volume()[1] * (seed - 1) % 3 if seed > 1 else volume(seed)[0])
    weights = checkpoints.weights_sha256(str(top / "data" / "a.safetensors"))
    return {"ROOT": str(top / "data"), "COPY": str(top / "copy"), "SHA256": weights}


def keys(of: str, changes: Changes, further: Changes, places: Mapping[str, str]) -> set[Any]:
    """The keys of a job's rows; of a data set those of its cases, or its whole recipe if no files are there."""
    text = json.dumps(changed(changed(PGD, changes), further))
    content = json.loads(functools.reduce(lambda text, word: text.replace(word, places[word]), places, text))
    if of[0].isupper():
        dataset = build_dataset(content["datasets"][0], "job")
        has_files = getattr(dataset, "root", "") != "none"
        return {dataset.case_key(ref) for ref in dataset.refs()} if has_files else {repr(dataset.whole_recipe())}
    with trusting(True):
        grid = expand(validate(content, JobSpec, "job"))
    return {*row_keys(grid)}


def other(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    return (*value, "other") if isinstance(value, tuple) else value + ("x" if isinstance(value, str) else 1)


def test_every_key_is_in_one_of_the_two_lists() -> None:
    assert sorted([*MOVING, *OF_SPEC, *STILL]) == sorted({*schema()})


@pytest.mark.parametrize("key", MOVING)
def test_a_key_that_may_move_a_number_moves_all_keys(key: str, places: Mapping[str, str]) -> None:
    before = keys(key, MOVING[key][0], {}, places)
    after = keys(key, *MOVING[key], places)
    assert before
    assert after
    assert not before & after


@pytest.mark.parametrize("key", [key for key, (_, line) in STILL.items() if line])
def test_a_key_with_a_reason_moves_no_key(key: str, places: Mapping[str, str]) -> None:
    """The smaller of two choices is a part of the larger."""
    line = STILL[key][1]
    assert line
    before = keys(key, line[0], {}, places)
    after = keys(key, *line, places)
    assert before & after
    assert before & after in (before, after)


@pytest.mark.parametrize("key", OF_SPEC)
def test_a_key_that_files_fill_in_moves_the_id_of_a_model(key: str) -> None:
    spec = resolve(validate(A, ModelEntry, "job"), 6)
    assert replace(spec, **OF_SPEC[key]).model_id != spec.model_id


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_an_attack_moves_its_identity(name: str) -> None:
    """`surrogates` are told by what they compute: test_surrogates."""
    attack = make(CLASSES[name], **SETTINGS[name])
    for field in fields(attack):
        varied = copy.copy(attack)
        object.__setattr__(varied, field.name, other(getattr(attack, field.name)))
        assert attack_identity(varied) != attack_identity(attack), field.name


@pytest.mark.parametrize("defence", DEFENCES.values())
def test_every_field_of_a_defence_moves_its_identity(defence: type[Defence]) -> None:
    values: dict[str, Any] = dict.fromkeys(defence.model_fields, 1)
    made = defence.model_construct(**values)
    for name in defence.model_fields:
        assert made.model_copy(update={name: other(getattr(made, name))}).identity() != made.identity(), name


def test_a_file_that_is_several_channels_is_told_by_its_places(places: Mapping[str, str]) -> None:
    """A list may name a sequence twice in place of one that a case lacks."""
    a, b = (f"{places['ROOT']}/k_{number}.nii.gz" for number in (0, 1))
    prints = [ImageFiles(case_id="k", channels=each).fingerprint() for each in ((a, b, a), (a, b, b), (a, b))]
    assert len({*prints}) == 3


def test_ensembles_own_padding_moves_its_id_with_windows() -> None:
    member = resolve(validate({**A, "input": {"axes": "D-WH"}}, ModelEntry, "job"), 6)
    for members, moves in (((member,), True), ((replace(member, input=InputAdapter()),), False)):
        mean = replace(member, members=members, input=InputAdapter())
        at_high_end, at_low = (replace(mean, inference=Inference(padding=each)) for each in (0.0, "volume"))
        assert (at_high_end.model_id != at_low.model_id) == moves


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
    swept = {"name": "pgd", "eps": ["8/255", 0.1], "steps": [5, 10], "organs": [["liver"], None], "step_size": "eps/4"}
    matched = {"name": "fgsm", "match": [{"metric": "l2_body", "value": 1}], "datasets": "phantom", "sources": ["a"]}
    aimed = {"name": "vafa", "q_max": 20, "block": ["8x16x16", 8], "target": {"swap": {"liver": "spleen"}}}
    attacks = [swept, matched, aimed, {"name": "mine.attack:Walk", "whatever": 1}]
    datasets = [{"name": "phantom", "cases": 2}, {"name": "x", "loader": "mine:Data", "root": "y"}]
    assert list(checks[JobSpec].iter_errors(small(attacks=attacks, datasets=datasets))) == []


def test_all_of_the_tables_are_in_it() -> None:
    tables = {f"attack-{name}" for name in ATTACKS}
    tables |= {each.__name__ for each in DATASETS.values()}
    assert tables <= {*schema_of(JobSpec)["$defs"]}
