"""A job that a thread finishes in a second or two."""

from collections.abc import Callable
from typing import Any

import pytest

from freqbench.core.config import validate
from freqbench.training import TrainJob


@pytest.fixture(scope="session")
def tiny_job() -> Callable[..., TrainJob]:
    """A job on four small phantoms; keywords replace its fields."""

    def make(**changes: Any) -> TrainJob:
        content = {
            "name": "tiny",
            "dataset": {"name": "phantom", "shape": [24, 20, 16], "cases": 4},
            "splits": {"train": "train", "select": "validation", "test": "test"},
            "models": [
                {
                    "name": "net",
                    "arch": "unet",
                    "args": {"channels": [4, 8], "strides": [2], "num_res_units": 1},
                    "roi": [16, 16, 16],
                }
            ],
            "steps": 6,
            "batch_size": 2,
            "lr": 1e-2,
            "warmup_steps": 2,
            "validate_every": 2,
        }
        return validate(content | changes, TrainJob, where="tiny")

    return make
