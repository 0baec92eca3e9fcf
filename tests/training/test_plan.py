"""From a training job to its networks, without training, and the packaged ones: identities, recipes, first losses."""

import json
import signal
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import network_of

from freqbench import models
from freqbench.core.config import load
from freqbench.core.errors import UserError
from freqbench.data.loaders.phantom import Phantom
from freqbench.job import schema
from freqbench.metrics import dice
from freqbench.models import ModelEntry, packaged, read_metadata, resolve
from freqbench.training import TrainJob, train
from freqbench.training.loop import NetworkTraining, fit
from freqbench.training.plan import Prepared, job_lists, prepare
from freqbench.training.state import BEST, State

from .conftest import AT, FGSM, NET, PGD, UNION, VAFT, identities, job_of

VAFA = {**AT, "attack": VAFT["attack"]}
FAA = {**AT, "attack": {"name": "faa", "portion": 0.2, "steps": 1}}
ONE_STEP = {**AT, "attack": {"name": "pgd", "eps": "4/255", "steps": 1}}


def planned(job: TrainJob) -> dict[str, NetworkTraining]:
    return {each.model.name: each for each in prepare(job, "out").trainings}


def test_identities_of_trainings_stay() -> None:
    """A change here trains all networks again."""
    assert identities(job_of(AT)) == {"net": "9dee39ab0cfe8cb0", "at": "6d23032206252c95"}
    judged = {"attack": FGSM, "choose_by": "attacked"}
    assert identities(job_of(AT, validation=judged)) == {"net": "f11c4f03702504aa", "at": "c3d6ea66c1144cb2"}


@pytest.mark.parametrize(
    "change",
    [
        {"random_budget": [6, 20]},
        {"frequency_consistency": {"form": "paper"}},
        {"attack": PGD},
        {"lr": 0.5},
        {"accumulate": 2},
        {"clip_norm": 1.0},
        {"precision": "fp32"},
    ],
)
def test_a_setting_of_one_network_changes_its_identity_alone(change: dict[str, Any]) -> None:
    before = identities(job_of(VAFT))
    after = identities(job_of({**VAFT, **change}))
    assert (before["net"] == after["net"], before["vaft"] == after["vaft"]) == (True, False)


@pytest.mark.parametrize(
    "change",
    [
        {"union": {**UNION["union"], "mix": "worst"}},
        {"union": {**UNION["union"], "shares": [1, 2]}},
        {"ema": 0.9},
        {"noise": {"kind": "voxels", "sigma": 0.1}},
        {"objective": "trades"},
        {"objective": "trades", "beta": 2},
    ],
)
def test_a_setting_of_a_union_changes_its_identity(change: dict[str, Any]) -> None:
    trades = {"objective": "trades"} if "beta" in change else {}
    before, after = (identities(job_of({**UNION, **more}))["union"] for more in (trades, change))
    assert before != after


def test_the_lists_and_the_start_are_in_an_identity() -> None:
    before = identities(job_of(VAFT))
    assert identities(job_of(VAFT, half=True)) == before, "what is stored of the weights is no part of their training"
    assert identities(job_of(splits={"train": "train", "select": "test", "test": "validation"}))["net"] != before["net"]
    assert identities(job_of(models=[{"name": "net", **NET, "lr": 0.5}, VAFT]))["vaft"] != before["vaft"]


def test_null_goes_with_the_job_everywhere() -> None:
    """`spacing: null` of ACDC is "as the scanner made it", not the default of 1.5 mm."""
    job = job_of(AT, dataset={"name": "acdc", "root": "volumes", "spacing": None, "size": None})
    again = TrainJob.model_validate(job.model_dump(mode="json", exclude_none=True))
    assert again == job
    assert again.dataset.own == {"root": "volumes", "spacing": None, "size": None}


def test_replicate_equals_a_job_of_its_seed() -> None:
    one, second, three = (identities(job_of(AT, **more)) for more in ({}, {"seed": 2}, {"replicates": 3}))
    assert [*three] == ["net", "at", "net.1", "at.1", "net.2", "at.2"]
    assert {name: three[name] for name in one} == one
    assert [three["net.2"], three["at.2"]] == [second["net"], second["at"]]
    assert len(set(three.values())) == 6


def test_replicate_starts_from_its_number_or_the_shared_one() -> None:
    again = {**AT, "name": "again", "start": "at"}
    trainings = planned(job_of(AT, again, {**AT, "name": "zoo", "start": "zoo://phantom/unet"}, replicates=2))
    for end, seed in (("", 0), (".1", 1)):
        assert (trainings[f"at{end}"].start, trainings[f"at{end}"].seed) == (f"out/net{end}/best.safetensors", seed)
        assert trainings[f"again{end}"].start == f"out/at{end}/best.safetensors"
        assert trainings[f"zoo{end}"].start == "zoo://phantom/unet"


def test_a_recipe_has_its_own_number_of_replicates() -> None:
    trained = identities(job_of(models=[{"name": "net", **NET, "replicates": 3}, {**AT, "replicates": 2}]))
    assert [*trained] == ["net", "at", "net.1", "at.1", "net.2"]
    assert trained.items() <= identities(job_of(AT, replicates=3)).items()


def test_a_network_that_a_job_does_not_train_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"tiny: unknown network 'at\.1'\. Did you mean 'at'"):
        train(job_of(AT), only=["at.1"])


def test_replicates_share_their_method() -> None:
    trainings = planned(job_of(ONE_STEP, {**ONE_STEP, "name": "longer", "steps": 9}, replicates=2))
    methods = {name: each.method for name, each in trainings.items()}
    assert methods["at"] == methods["at.1"]
    assert len(set(methods.values())) == 3
    later = planned(job_of(ONE_STEP, name="later", seed=7))["at"]
    assert (later.method, later.identity != trainings["at"].identity) == (methods["at"], True)
    assert planned(job_of(models=[{"name": "net", **NET, "lr": 0.5}, ONE_STEP]))["at"].method != methods["at"]


@pytest.mark.parametrize(
    ("arm", "attack"),
    [
        (AT, {"name": "pgd", "eps": "4/255", "steps": 3, "step_size": "2/255"}),
        (VAFA, "own"),
        ({**AT, "attack": {"name": "gn", "std": "4/255"}}, "own"),
    ],
    ids=["linf", "dct-quantization", "gaussian"],
)
def test_network_is_judged_under_its_own_threat_model_by_default(arm: dict[str, Any], attack: Any) -> None:
    by_default = planned(job_of(arm))
    asked = planned(job_of(arm, validation={"attack": attack}))
    assert by_default["at"].record["validation"] == asked["at"].record["validation"]


def test_union_is_judged_by_its_worst_attack() -> None:
    union = planned(job_of({**UNION, "union": {"mix": "worst", "attacks": [PGD, FGSM]}}))["union"]
    assert ([attack.name for attack in union.quick], union.choose_by) == (["pgd", "fgsm"], "worst")
    assert [each["name"] for each in union.record["attack"]] == ["pgd", "fgsm"]


def test_own_is_the_attack_as_trained() -> None:
    own, both = (planned(job_of(VAFA, validation={"attack": attack}))["at"] for attack in ("own", ["own", FGSM]))
    assert own.adversary is not None
    assert own.quick == (own.adversary.attack,)
    assert own.record["validation"]["attack"] == [own.record["attack"]]
    assert [attack.name for attack in both.quick] == ["vafa", "fgsm"]
    assert [each["name"] for each in both.record["validation"]["attack"]] == ["vafa", "fgsm"]
    assert own.identity != both.identity


@pytest.mark.parametrize("attack", [[FGSM], [FGSM, FGSM]])
def test_a_list_of_one_is_that_one(attack: Any) -> None:
    given, alone = (identities(job_of(VAFA, validation={"attack": each})) for each in (attack, FGSM))
    assert given == alone


def test_a_clean_network_has_no_attack_of_its_own() -> None:
    clean = planned(job_of(VAFA, validation={"attack": "own", "choose_by": "worst"}))["net"]
    assert (clean.quick, clean.choose_by, clean.identity) == ((), "clean", planned(job_of(VAFA))["net"].identity)
    both = planned(job_of(VAFA, validation={"attack": ["own", FGSM]}))["net"]
    assert [attack.name for attack in both.quick] == ["fgsm"]


def test_a_model_overrides_the_jobs_schedule() -> None:
    job = job_of(models=[{"name": "a", "arch": "unet", "steps": 9}, {"name": "b", "arch": "unet", "lr": 0.5}])
    first, second = (job.schedule(model) for model in job.models)
    assert (first.steps, first.lr, second.steps, second.lr) == (9, 1e-2, 6, 0.5)


def test_models_own_augmentation_replaces_jobs_and_is_recorded() -> None:
    own = {"flip": 0, "rotate90": 0, "scale_intensity": 1}
    job = job_of({"name": "own", **NET, "augmentation": own}, augmentation={"shift_intensity": 0.7})
    of_the_job = planned(job)["net"]
    of_its_own = planned(job)["own"]
    assert (of_the_job.augmentation.flip, of_the_job.augmentation.shift_intensity) == (0.2, 0.7)
    assert (of_its_own.augmentation.flip, of_its_own.augmentation.shift_intensity) == (0, 0.1)
    assert of_its_own.record["augmentation"] == of_its_own.augmentation.model_dump()
    assert of_the_job.identity != of_its_own.identity


def test_a_job_that_selects_on_its_test_list_records_that() -> None:
    splits = {"train": "train", "select": "test", "test": "test", "selected_on_test": True}
    assert planned(job_of(splits=splits))["net"].record["splits"] == splits


NO_ATTACK = r"validation.attack: expected an attack \{name: ..., ...\}, own, or a list of these, got "


def _union(**changes: Any) -> dict[str, Any]:
    return UNION | {"attack": None, "union": UNION["union"] | changes}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({"attack": None}, {}, "expected an attack for objective: at, got none"),
        ({"objective": "clean"}, {}, "expected no attack for objective: clean"),
        ({"frequency_consistency": {}}, {}, "objective: vaft alone"),
        ({"attack": {"name": "pgd", "eps": 8}}, {}, r"at: attack\.eps: .*8/255"),
        ({"attack": {"name": "pdg", "eps": "4/255"}}, {}, "Did you mean 'pgd'"),
        ({"attack": {**PGD, "organs": ["heart"]}}, {}, r"attack\.organs: .*heart"),
        ({"attack": {**PGD, "eps": ["4/255", "8/255"]}}, {}, r"at: attack\.eps"),
        ({"random_budget": ["8/255", "4/255"]}, {}, r"\[lowest, highest\]"),
        ({"attack": VAFT["attack"], "random_budget": [2, 20]}, {}, r"attack\.q_max: expected at least q_min = 5"),
        ({"start": "nowhere.pt"}, {}, "nowhere.pt"),
        ({"start": "at"}, {}, "at -> at has no beginning"),
        ({"start": "zoo://phantom/segresnet", "arch": "unet"}, {}, "segresnet"),
        ({"roi": [15, 16, 16]}, {}, "multiples of 2x2x2"),
        ({}, {"accumulate": 3}, "expected a batch_size that accumulate x workers = 3"),
        ({}, {"threads": 10**5}, "threads: Input should be less than or equal to 512"),
        ({"batch_size": 10**9}, {}, r"models\[1\]\.batch_size: Input should be less than or equal to 4096"),
        ({}, {"warmup_steps": 6}, "net: expected warmup_steps below steps, got 6 and 6"),
        ({}, {"warmup_step": 1}, "Did you mean 'warmup_steps'"),
        ({"name": "net"}, {}, r"models\[1\]\.name: 'net' is taken already: give each its own name"),
        ({"name": "../net"}, {}, r"models\[1\]\.name"),
        (
            {"name": "net.1"},
            {"replicates": 2},
            "expected names that replicates leave free, got net.1, which is what a rep",
        ),
        ({"replicates": 2}, {}, "at: expected at most the 1 replicates of net, from which they start, got 2"),
        ({}, {"replicates": 0}, "replicates: Input should be greater than 0, got 0"),
        (
            {},
            {"models": [{"name": "net", **NET}, {"name": "other", **NET}, AT]},
            "the job has net, other: name a model or",
        ),
        (
            {},
            {"splits": {"train": "train", "select": "test", "test": "test"}},
            r"got 4 in select and test \(first: phan",
        ),
        ({}, {"dataset": {"name": "fantom"}}, r"unknown loader 'fantom'\. Did you mean 'phantom'"),
        (
            {},
            {"models": [{"name": "net", **NET}], "validation": {"choose_by": "mean"}},
            "expected clean without an attack",
        ),
        ({}, {"validation": {"attack": "pgd"}}, f"{NO_ATTACK}'pgd'"),
        ({}, {"validation": {"attack": []}}, rf"{NO_ATTACK}\[\]"),
        ({}, {"validation": {"attack": ["own", 7]}}, rf"{NO_ATTACK}\['own', 7\]"),
        (
            {},
            {"validation": {"attack": ["own", {"name": "pdg"}]}},
            "tiny: validation: unknown attack 'pdg'. Did you mean",
        ),
        ({}, {"validation": {"attack": [{"eps": 1}]}}, rf"{NO_ATTACK}\[{{'eps': 1}}\]"),
        ({"attack": {"eps": 1}}, {}, r"attack\.name: required, but not given"),
        (
            FAA,
            {"dataset": {"name": "phantom", "shape": [24, 20, 16], "cases": 1}},
            r"at: splits\.select: expected two cas",
        ),
        (
            {"attack": {"name": "deformation", "max_mm": 2, "steps": 1}},
            {},
            r"^[^\n]*: attack: expected one that leaves labels in their place, got deformation$",
        ),
        (
            {"attack": {"name": "universal", "eps": 0.1}},
            {},
            r"attack: expected one that learns from no other cases, got u",
        ),
        (
            {},
            {"validation": {"attack": {"name": "universal", "eps": 0.1}}},
            "expected one that learns from no other cases",
        ),
        (UNION, {}, "expected no attack beside union, got both"),
        (UNION | {"attack": None, "random_budget": [1, 2]}, {}, "expected no random_budget beside union, got both"),
        (UNION | {"attack": None, "objective": "clean"}, {}, "expected no union for objective: clean"),
        (_union(mix="most"), {}, r"models\[1\]\.union\.mix: .*'random', 'worst' or 'average'"),
        (_union(attacks=[PGD]), {}, r"union\.attacks: expected a list of at least 2"),
        (_union(attacks=[PGD, {"name": "pgd", "eps": 8}]), {}, r"union: union\.attacks\[1\]\.eps: .*8/255"),
        (_union(shares=[1]), {}, "expected 2 shares, one for each attack, got 1"),
        (_union(shares=[1, 2], mix="worst"), {}, "expected no shares for mix: worst"),
        ({"beta": 6}, {}, "expected beta for objective: trades alone"),
        ({"noise": {"kind": "voxels", "sigma": 0}}, {}, r"models\[1\]\.noise\.sigma: .*greater than 0"),
        (
            {"noise": {"kind": "rotation", "sigma": 1}},
            {},
            r"models\[1\]\.noise\.kind: .*'voxels', 'bias_field', 'gain_",
        ),
        ({"noise": {"kind": "voxel_shift", "sigma": 1}}, {}, r"models\[1\]\.noise\.kind: .* or 'dct_bands'"),
        ({"noise": {"kind": "voxels"}}, {}, r"models\[1\]\.noise\.sigma: required"),
        ({"ema": 1}, {}, r"models\[1\]\.ema: Input should be less than 1"),
        (
            {},
            {"validation": {"attack": {"name": "bases", "eps": 0.1}}},
            "expected one that needs no surrogates, got bases",
        ),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, model: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    arm = {key: value for key, value in {**AT, **model}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        train(job_of(arm, **changes), str(tmp_path), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_noise_of_gain_and_offset_is_of_one_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(models=[{"name": "net", **NET, "noise": {"kind": "gain_offset", "sigma": 0.1}}])
    assert planned(job)["net"].record["noise"] == {"kind": "gain_offset", "sigma": 0.1}
    monkeypatch.setattr(Phantom, "num_channels", 2)
    with pytest.raises(UserError, match=r"net: noise: gain_offset: expected volumes of 1 channel, got 2: [^\n]*$"):
        prepare(job)


# The packaged networks are what two packaged jobs make on today's phantom
ZOO_JOBS: dict[str, TrainJob] = {}
for job in ("zoo", "zoo_vaft"):
    zoo = load(str(Path(__file__).parents[2] / "jobs" / "research" / "phantom" / f"{job}.yaml"), TrainJob)
    ZOO_JOBS |= {model.name: zoo for model in zoo.models}


every_zoo_network = pytest.mark.parametrize("name", ZOO_JOBS)


@pytest.mark.integration
@every_zoo_network
def test_packaged_network_fits_todays_phantom(name: str) -> None:
    (training,) = (each for each in prepare(ZOO_JOBS[name], only=[name]).trainings if each.model.name == name)
    stored = models.read_metadata(f"zoo://phantom/{name}")["training"]
    record = json.loads(json.dumps(training.record))
    if "validation" in stored:
        assert [stored["validation"].pop("attack")] == record["validation"].pop("attack")
    for key in stored.keys() & record.keys():
        asked = record[key]
        stated = stored[key]
        assert stated.items() <= asked.items() if isinstance(stated, dict) else stated == asked, key
    assert 0.85 <= stored["dice_test"] <= 0.97
    assert (Path(models.__file__).parent / "zoo" / "phantom" / f"{name}.safetensors").stat().st_size <= 1.5e6


@every_zoo_network
def test_a_packaged_network_segments_an_unseen_case(name: str) -> None:
    dataset = job_lists(ZOO_JOBS[name])["test"]
    case = dataset.load(dataset.refs()[0])
    entry = models.ModelEntry(name=name, checkpoint=f"zoo://phantom/{name}")
    network = network_of(models.resolve(entry, len(dataset.classes)))
    assert np.nanmean(dice(models.predict(network, case.image), case.label, len(dataset.classes))[1:]) > 0.75


JOB = Path(__file__).parents[2] / "jobs" / "research" / "hippocampus" / "zoo.yaml"
LOSSES = Path(__file__).with_name("zoo_losses.json")
CARRIED = [name for name in packaged.zoo_names() if name.startswith("hippocampus/")]
STEPS = 20


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results that has the packaged clean network, from which the others start."""
    out = tmp_path_factory.mktemp("zoo")
    (out / "unet").mkdir()
    copyfile(packaged.zoo_path("zoo://hippocampus/unet"), out / "unet" / BEST)
    return out


@pytest.fixture(scope="module")
def prepared(shared: Path, start: Path) -> Prepared:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREQBENCH_DATA", str(shared / "data"))
        return prepare(schema.load_any(str(JOB)), str(start))


@pytest.mark.integration
def test_each_network_states_the_recipe_that_the_job_has_now(prepared: Prepared) -> None:
    methods = {each.model.name: each.method for each in prepared.trainings}
    stated = {name.partition("/")[2]: read_metadata(f"zoo://{name}")["training"]["method"] for name in CARRIED}
    assert stated.items() <= methods.items()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "union"])
def test_first_steps_of_training_have_losses_of_packaged_one(
    name: str, prepared: Prepared, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREQBENCH_DATA", str(shared / "data"))
    [training] = [each for each in prepared.trainings if each.model.name == name]
    losses: list[float] = []

    def seen(state: State) -> None:
        losses.append(state.losses[-1][0])
        if state.step == STEPS:
            signal.raise_signal(signal.SIGINT)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(training, prepared.cases("train"), [], str(tmp_path), seen)
    finally:
        torch.set_num_threads(threads)
    stored = json.loads(LOSSES.read_text())[name]
    if name == "unet":
        assert losses == pytest.approx(stored, rel=1e-3)
    else:  # an adversary carries on how a processor rounds: with two threads a step moves by half, the mean by little
        assert losses[0] == pytest.approx(stored[0], rel=1e-3)
        assert sum(losses) == pytest.approx(sum(stored), rel=0.05)


@pytest.mark.parametrize("name", CARRIED)
def test_a_packaged_network_is_small_and_needs_only_its_name(name: str) -> None:
    address = f"zoo://{name}"
    assert packaged.zoo_path(address).stat().st_size <= 1.5e6
    assert resolve(ModelEntry(name="m", checkpoint=address), 3).num_classes == 3
    assert packaged.card(address).licence.startswith("CC-BY-SA 4.0")
