"""A training job that takes a second, and benchmark jobs of one volume that name its networks."""

from pathlib import Path
from typing import Any

import tiny_job
import yaml

NET = {"arch": "unet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 1}, "roi": tiny_job.ROI}
MODELS = [{"name": "net", **NET}, {"name": "other", **NET, "args": {**NET["args"], "num_res_units": 0}}]
TRAINING: dict[str, Any] = {
    "name": "adv",
    "dataset": {"name": "phantom", "shape": tiny_job.SHAPE, "cases": 2},
    "splits": {"train": "train", "select": "validation", "test": "test"},
    "models": MODELS,
    "steps": 4,
    "batch_size": 1,
    "lr": 1e-2,
    "warmup_steps": 1,
    "validate_every": 2,
    "threads": 1,
    "loaders": 0,
}


def training(**changes: Any) -> dict[str, Any]:
    return {**TRAINING, **changes}


def benchmark(*checkpoints: str, **changes: Any) -> dict[str, Any]:
    """A benchmark job whose models `m0`, `m1` ... have these checkpoints."""
    models = [{"name": f"m{i}", "checkpoint": text, "expected_dice": 0.01} for i, text in enumerate(checkpoints)]
    return tiny_job.small(**{"training": ["adv.yaml"], "models": models, "metrics": ["dsc"], **changes})


def write(folder: Path, name: str, content: dict[str, Any]) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def take_part(rank: int, size: int, job: dict[str, Any], out: str) -> None:
    """Train the first network of a job as one of several processes that find each other by a file in OUT."""
    import torch

    from freqbench.training import TrainJob
    from freqbench.training.loop import Team, fit
    from freqbench.training.plan import prepare

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=size)
    prepared = prepare(TrainJob.model_validate(job), out)
    (training,) = prepared.trainings
    cases = [prepared.cases(role) for role in ("train", "select")]
    folder = f"{out}/{training.model.name}"
    fit(training, *cases, folder, lambda state: None, Team(rank=rank, size=size))
    torch.distributed.destroy_process_group()
