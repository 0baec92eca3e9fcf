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
from freqbench.training.lists import job_lists
from freqbench.training.plan import trainings_of
from freqbench.training.recipe import ModelRecipe

JOBS = [
    load(str(Path(__file__).parents[2] / "jobs" / f"{name}.yaml"), TrainJob)
    for name in ("zoo_phantom", "zoo_phantom_vaft")
]
ZOO = Path(models.__file__).parent / "zoo" / "phantom"


@pytest.mark.parametrize(
    ("job", "model"),
    [(job, model) for job in JOBS for model in job.models],
    ids=[m.name for j in JOBS for m in j.models],
)
class TestPackagedNetwork:
    def test_was_trained_by_the_job_on_todays_phantom(self, job: TrainJob, model: ModelRecipe) -> None:
        lists = job_lists(job)
        refs = {role: dataset.refs() for role, dataset in lists.items()}
        [wanted] = (
            each.record
            for each in trainings_of(job, "", lists["train"], refs, [model.name])
            if each.model.name == model.name
        )
        stored = models.read_metadata(f"zoo://phantom/{model.name}")["training"]
        assert digest({key: stored[key] for key in wanted}) == digest(wanted)

    def test_is_good_but_not_perfect(self, job: TrainJob, model: ModelRecipe) -> None:
        assert 0.85 <= models.read_metadata(f"zoo://phantom/{model.name}")["training"]["dice_test"] <= 0.97

    def test_is_small(self, job: TrainJob, model: ModelRecipe) -> None:
        assert (ZOO / f"{model.name}.safetensors").stat().st_size <= 1.5e6

    def test_segments_a_case_that_it_never_saw(self, job: TrainJob, model: ModelRecipe) -> None:
        dataset = job_lists(job)["test"]
        case = dataset.load(dataset.refs()[0])
        entry = models.ModelEntry(name=model.name, checkpoint=f"zoo://phantom/{model.name}")
        network = models.load(models.resolve(entry, dataset.num_classes), torch.device("cpu"))
        scores = dice(models.predict(network, case.image), case.label, dataset.num_classes)
        assert np.nanmean(scores[1:]) > 0.75
