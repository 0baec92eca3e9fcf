from collections.abc import Callable
from pathlib import Path

import pytest

from freqbench.core.config import load
from freqbench.core.errors import UserError
from freqbench.training import TrainJob

MakeJob = Callable[..., TrainJob]
JOBS = Path(__file__).parents[2] / "jobs"


def test_a_model_overrides_the_jobs_schedule(tiny_job: MakeJob) -> None:
    job = tiny_job(models=[{"name": "a", "arch": "unet", "steps": 9}, {"name": "b", "arch": "unet", "lr": 0.5}])
    first, second = (job.schedule(model) for model in job.models)
    assert (first.steps, first.lr) == (9, 1e-2)
    assert (second.steps, second.lr) == (6, 0.5)


def test_two_models_of_one_name_are_refused(tiny_job: MakeJob) -> None:
    with pytest.raises(UserError, match="expected a different name for each model, got a, a"):
        tiny_job(models=[{"name": "a", "arch": "unet"}, {"name": "a", "arch": "unetr"}])


def test_a_warmup_as_long_as_the_training_is_refused(tiny_job: MakeJob) -> None:
    with pytest.raises(UserError, match="net: expected warmup_steps below steps, got 6 and 6"):
        tiny_job(warmup_steps=6)


def test_a_name_that_leaves_its_folder_is_refused(tiny_job: MakeJob) -> None:
    with pytest.raises(UserError, match=r"models\[0\]\.name"):
        tiny_job(models=[{"name": "../net", "arch": "unet"}])


def test_a_misspelt_key_is_answered_with_the_right_one(tiny_job: MakeJob) -> None:
    with pytest.raises(UserError, match="Did you mean 'warmup_steps'"):
        tiny_job(warmup_step=1)


@pytest.mark.parametrize("name", ["zoo_phantom", "zoo_phantom_vaft", "hippocampus_train", "vaft_hippocampus"])
def test_the_packaged_jobs_are_valid(name: str) -> None:
    assert load(str(JOBS / f"{name}.yaml"), TrainJob).name == name
