"""A job that a thread finishes in a second or two, and what it makes."""

from pathlib import Path
from typing import Any

import pytest

from freqbench.core.config import validate
from freqbench.training import TrainJob, train
from freqbench.training.plan import prepare

NET = {"arch": "unet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 1}, "roi": [16, 16, 16]}
PGD = {"name": "pgd", "eps": "4/255", "steps": 2}
FGSM = {"name": "fgsm", "eps": "4/255"}
AT = {"name": "at", "objective": "at", "attack": PGD}
VAFT = {
    "name": "vaft",
    "objective": "vaft",
    "attack": {"name": "vafa", "q_max": 20, "steps": 2, "block": 8},
    "frequency_consistency": {"weight": 1, "form": "released", "block": "whole"},
}
UNION = {"name": "union", "objective": "at", "union": {"mix": "random", "attacks": [VAFT["attack"], PGD]}}


def job_of(*more: dict[str, Any], **changes: Any) -> TrainJob:
    """A job of the network `net` and what starts from it, on four small phantoms; keywords replace its fields."""
    content = {
        "name": "tiny",
        "dataset": {"name": "phantom", "shape": [24, 20, 16], "cases": 4},
        "splits": {"train": "train", "select": "validation", "test": "test"},
        "models": [{"name": "net", **NET}, *more],
        "loaders": 0,
    }
    schedule = {"steps": 6, "batch_size": 2, "lr": 1e-2, "warmup_steps": 2, "validate_every": 2}
    return validate(content | schedule | changes, TrainJob, where="tiny")


def identities(job: TrainJob) -> dict[str, str]:
    """Identities by the networks' names."""
    return {training.model.name: training.identity for training in prepare(job).trainings}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainJob, Path]:
    """A clean network in half precision and one of VAFT, judged under two attacks, cut by a process of their own."""
    out = tmp_path_factory.mktemp("trained")
    job = job_of(VAFT, half=True, loaders=1, steps=4, validation={"attack": ["own", FGSM], "choose_by": "worst"})
    train(job, str(out), progress=False)
    return job, out
