"""Training job files."""

from pathlib import Path

import pytest

from freqbench.core.config import load
from freqbench.training import TrainJob

from .conftest import job_of

JOBS = Path(__file__).parents[2] / "jobs"


def test_a_model_overrides_the_jobs_schedule() -> None:
    job = job_of(models=[{"name": "a", "arch": "unet", "steps": 9}, {"name": "b", "arch": "unet", "lr": 0.5}])
    first, second = (job.schedule(model) for model in job.models)
    assert (first.steps, first.lr) == (9, 1e-2)
    assert (second.steps, second.lr) == (6, 0.5)


@pytest.mark.parametrize("name", ["zoo_phantom", "zoo_phantom_vaft", "hippocampus_train", "vaft_hippocampus"])
def test_the_packaged_jobs_are_valid(name: str) -> None:
    assert load(str(JOBS / f"{name}.yaml"), TrainJob).name == name
