"""The packaged networks are what `jobs/zoo_phantom.yaml` and `zoo_phantom_vaft.yaml` make on today's phantom."""

from pathlib import Path

import numpy as np
import pytest
import torch

from freqbench import models
from freqbench.core.config import load
from freqbench.core.identity import digest
from freqbench.metrics import dice
from freqbench.training import TrainJob
from freqbench.training.plan import job_lists, prepare

JOBS = {
    model.name: job
    for name in ("zoo_phantom", "zoo_phantom_vaft")
    for job in [load(str(Path(__file__).parents[2] / "jobs" / f"{name}.yaml"), TrainJob)]
    for model in job.models
}
ZOO = Path(models.__file__).parent / "zoo" / "phantom"


@pytest.mark.parametrize("name", JOBS)
def test_was_trained_by_the_job_on_todays_phantom(name: str) -> None:
    (training,) = (each for each in prepare(JOBS[name], only=[name]).trainings if each.model.name == name)
    stored = models.read_metadata(f"zoo://phantom/{name}")["training"]
    assert digest({key: stored[key] for key in training.record}) == digest(training.record)
    assert 0.85 <= stored["dice_test"] <= 0.97
    assert (ZOO / f"{name}.safetensors").stat().st_size <= 1.5e6


@pytest.mark.parametrize("name", JOBS)
def test_segments_a_case_that_it_never_saw(name: str) -> None:
    dataset = job_lists(JOBS[name])["test"]
    case = dataset.load(dataset.refs()[0])
    entry = models.ModelEntry(name=name, checkpoint=f"zoo://phantom/{name}")
    network = models.load(models.resolve(entry, dataset.num_classes), torch.device("cpu"))
    scores = dice(models.predict(network, case.image), case.label, dataset.num_classes)
    assert np.nanmean(scores[1:]) > 0.75
