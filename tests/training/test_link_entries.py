"""Entries of `training` of a benchmark job, and the networks that `train://` checkpoints name."""

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_training import TRAINING, benchmark, training, write

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.names import job_file
from freqbench.job.schema import JobSpec
from freqbench.training import TrainJob, link

from .conftest import identities


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with training jobs in it, and in `jobs/`, where the benchmark job is."""
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("adv.yaml", training()),
        ("jobs/beside.yaml", training()),
        ("list.yaml", [1]),
        ("typo.yaml", training(stepz=3)),
        ("second.yaml", training(name="second")),
        ("twin.yaml", training(seed=1)),
    ):
        write(tmp_path, name, content)  # type: ignore[arg-type]
    return tmp_path


def described(*checkpoints: str, **changes: Any) -> JobSpec:
    return link.describe_job(config.validate(benchmark(*checkpoints, **changes), JobSpec, "jobs/b.yaml"))


@pytest.mark.parametrize(
    ("entry", "out"),
    [
        ("adv.yaml", "runs/adv"),
        ("beside.yaml", "runs/adv"),
        ("file://{}/adv.yaml", "runs/adv"),
        ("${HERE}/adv.yaml", "runs/adv"),
        (TRAINING, "runs/adv"),
        ({"job": "adv.yaml", "out": "s3://lab/nets"}, "s3://lab/nets"),
        ({"job": TRAINING, "out": "${HERE}/nets"}, "${HERE}/nets"),
        ({"job": TRAINING}, "runs/adv"),
    ],
)
def test_every_way_to_name_training_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch, entry: Any, out: str) -> None:
    monkeypatch.setenv("HERE", str(folder))
    entry = entry.format(folder) if isinstance(entry, str) and "{}" in entry else entry
    (training,) = described("train://net", training=[entry]).training
    assert isinstance(training.job, TrainJob)
    assert training.out == out
    expected = config.validate(TRAINING, TrainJob, "x")
    assert (training.job, identities(training.job)) == (expected, identities(expected))


def test_a_described_job_says_all_that_it_needs(folder: Path) -> None:
    """A store keeps the described job: written out and read again, it is the same, and its files may be gone."""
    spec = described("train://net", "train://adv/other")
    again = config.validate(spec.model_dump(mode="json"), JobSpec, spec.where)
    (folder / "adv.yaml").unlink()
    assert link.describe_job(again) == spec
    assert spec.model_dump(mode="json")["training"] == [{"job": training(), "out": "runs/adv"}], "as it is written"
    assert [(entry.arch, entry.args["num_res_units"], entry.roi) for entry in spec.models] == [
        ("unet", 1, (16, 16, 16)),
        ("unet", 0, (16, 16, 16)),
    ]


def test_two_jobs_may_train_one_name_each() -> None:
    assert len(described("train://adv/net", "train://second/net", training=["adv.yaml", "second.yaml"]).models) == 2


def test_an_entry_of_replicates_is_a_model_each() -> None:
    models = [{"name": "m", "checkpoint": "train://adv/net", "replicates": 3, "expected_dice": 0.01}]
    spec = described(models=models, training=[training(replicates=3)])
    entries = [(entry.name, entry.checkpoint, entry.arch, entry.replicates) for entry in spec.models]
    assert entries == [(f"m{end}", f"train://adv/net{end}", "unet", 1) for end in ("", ".1", ".2")]
    assert config.validate(spec.model_dump(mode="json"), JobSpec, spec.where) == spec


TRAINED = {"checkpoint": "x", "identity": "0" * 16, "weights": "0" * 64}


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (
            {"checkpoint": "train://net", "replicates": 3},
            "models[2].checkpoint: expected a replicate that adv trains, got net.2, as its replicates are 2",
        ),
        ({"checkpoint": "train://adv/other.2"}, "got other.2, as its replicates are 2: set replicates: 3 there"),
        ({"checkpoint": f"train://net.{'9' * 5000}"}, "models[0].checkpoint: unknown network to train 'net.9"),
        ({"checkpoint": "train://nett.1"}, "models[0].checkpoint: unknown network to train 'nett.1'"),
        (
            {"checkpoint": "zoo://phantom/unet", "replicates": 2},
            "models[0]: expected no replicates beside checkpoint: zoo://phantom/unet: they are for train://NAME",
        ),
        ({"checkpoint": "x.pt", "trained": TRAINED}, "models[0]: expected no trained beside checkpoint: x.pt"),
    ],
)
def test_a_model_that_cannot_be_is_one_line(model: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        described(models=[{"name": "m", **model}], training=[training(replicates=2)])


def test_the_job_s_own_word_on_a_network_stays() -> None:
    content = benchmark("train://net")
    content["models"][0] |= {"roi": [8, 8, 8], "args": {"dropout": 0.5}}
    (entry,) = link.describe_job(config.validate(content, JobSpec, "b")).models
    assert entry.roi == (8, 8, 8)
    assert entry.args == {**TRAINING["models"][0]["args"], "dropout": 0.5}


ADV = "adv.yaml"


@pytest.mark.parametrize(
    ("checkpoint", "jobs", "complaint"),
    [
        ("nett", [ADV], "models[0].checkpoint: unknown network to train 'nett'. Did you mean 'net'? Known: net, other"),
        ("advv/net", [ADV], "unknown network to train 'advv/net'. Did you mean 'adv/net'? Known: adv/net, adv/other"),
        ("/net", [ADV], "unknown network to train '/net'. Did you mean 'adv/net'?"),
        (
            "net",
            [],
            "models[0].checkpoint: expected `training` in the job for train://net, got none: name the training ",
        ),
        ("net", [ADV, "second.yaml"], "train://net, got 2: write train://adv/net or train://second/net"),
        ("adv/net", [ADV, "twin.yaml"], "training[1].name: 'adv' is taken already"),
        (
            "net",
            [ADV, {"job": "second.yaml", "out": "runs/adv/"}],
            "training[1].out: expected another place than that of adv, which has a net too, got runs/adv/",
        ),
        ("net", ["gone.yaml"], "training[0]: expected a training job (YAML) at gone.yaml, found none"),
        ("net", ["list.yaml"], "training[0]: list.yaml: expected keys and values at the top, got list"),
        ("net", ["typo.yaml"], "training[0]: typo.yaml: unknown key 'stepz'. Did you mean 'steps'?"),
        ("net", [training(stepz=3)], "jobs/b.yaml: training[0]: unknown key 'stepz'. Did you mean 'steps'?"),
        ("net", [{"job": ADV, "outt": "x"}], "training[0]: unknown key 'outt'. Did you mean 'out'?"),
        ("net", ["reference://x.yaml"], "expected a path or the URI of a known file system"),
        ("net", [7], "training[0].job: Input should be a valid string or a mapping, got 7"),
    ],
)
def test_a_training_that_cannot_be_is_one_line(checkpoint: str, jobs: list[Any], complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        described(f"train://{checkpoint}", training=jobs)


@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("research/hippocampus/table6", 8),
        ("research/hippocampus/strongest", 12),
        ("papers/vafa_table6_synapse", 16),
        ("papers/vafa_table6_acdc", 8),
    ],
)
def test_a_packaged_job_names_each_network_of_its_training_once(name: str, networks: int) -> None:
    job = link.describe_job(config.load(job_file(name), JobSpec))
    [training] = [entry.job for entry in job.training]
    assert isinstance(training, TrainJob)
    named = [str(model.checkpoint) for model in job.models]
    assert len(set(named)) == len(named) == networks
    assert set(named) <= {f"train://{model.name}" for model in training.models}
    assert all(model.arch for model in job.models)
