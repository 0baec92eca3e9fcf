"""Trains data-parallel by Ray Train: each worker takes its share of a step's crops; DDP averages gradients.
Checkpoints are those of the local loop: restarted workers go on from the last one, and Ray keeps nothing."""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device

from freqbench.core.errors import EngineLost, UserError, one_line
from freqbench.core.files.storage import is_local, join, local_path
from freqbench.core.interrupt import alongside
from freqbench.core.plugins import trusting
from freqbench.engine.ray import ray_cluster
from freqbench.job.training import TrainJob
from freqbench.training.loop import Team, fit
from freqbench.training.plan import prepare
from freqbench.training.state import Row, read_log

MAX_FAILURES = 8
WATCH_S = 2.0


def fit_on_ray(job: TrainJob, name: str, out: str, folder: str, tell: Callable[[Row], None]) -> None:
    """Trains network `name` of a job by `job.workers` processes of the running Ray, in its `folder` below `out`, which
    all reach; `tell` gets each row of the log. Raises UserError for a loss that is not finite, or workers that die more
    than MAX_FAILURES times; EngineLost where the process that leads them or Ray's head dies."""
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    place = str(Path(local_path(out)).resolve()) if is_local(out) else out
    on_gpu = ray.cluster_resources().get("GPU", 0) >= job.workers
    with tempfile.TemporaryDirectory() as scratch, _follow_log(folder, tell):
        work = {"job": job.model_dump(mode="json", exclude_none=True), "model": name, "out": place}
        scaling = ray.train.ScalingConfig(num_workers=job.workers, use_gpu=on_gpu)
        failures = ray.train.FailureConfig(max_failures=MAX_FAILURES)
        run = ray.train.RunConfig(name=name, storage_path=scratch, failure_config=failures)
        trainer = TorchTrainer(_work, train_loop_config=work, scaling_config=scaling, run_config=run)
        try:
            result = ray_cluster.result_of(trainer.fit)  # whose handler of Ctrl-C ends the process with 0 and no line
        except ray.train.TrainingFailedError as error:
            last = one_line(error)[-300:]
            raise UserError(f"{name}: workers failed more than {MAX_FAILURES} times; the last: {last}") from None
        except ray.exceptions.RayError as error:  # what leads the workers has died
            raise EngineLost(f"{name}: Ray has died ({one_line(error, 300)}): the same command goes on") from None
    if complaint := (result.metrics or {}).get("error"):
        raise UserError(complaint)


def _work(config: dict[str, Any]) -> None:
    job = TrainJob.model_validate(config["job"])
    name = config["model"]
    out = config["out"]
    torch.set_num_threads(job.threads or max(1, torch.get_num_threads()))
    context = ray.train.get_context()
    team = Team(rank=context.get_world_rank(), size=context.get_world_size(), device=get_device())
    try:
        with trusting(job.trust_code):
            prepared = prepare(job, out, [name])
            [training] = (each for each in prepared.trainings if each.model.name == name)
            fit(training, prepared.cases("train"), prepared.cases("select"), join(out, name), lambda state: None, team)
    except UserError as error:  # all workers raise it at the same step, and would again after a restart
        ray.train.report({"error": str(error)})


@contextmanager
def _follow_log(folder: str, tell: Callable[[Row], None]) -> Iterator[None]:
    """Tells rows of a log as they come, while the context is open."""
    seen = set(read_log(folder))

    def follow(ended: Event) -> None:
        while not ended.wait(WATCH_S):
            tell_new()

    def tell_new() -> None:
        for row in read_log(folder):
            if row not in seen:
                seen.add(row)
                tell(row)

    try:
        with alongside(follow, "log"):
            yield
    finally:
        tell_new()
