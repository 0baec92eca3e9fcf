"""Logs the means of a store's cells to TensorBoard, MLflow or Weights & Biases: one run per cell and target."""

import importlib.util
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from freqbench.analysis.frames import added_scores, found_records
from freqbench.core.errors import UserError, installing, one_line
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.measures import METRIC_OF
from freqbench.reporting.contents import keys_of
from freqbench.reporting.figures.cases import glimpse
from freqbench.results import Store, glimpses

SETTINGS = ("dataset", "source_model", "target_model", "attack", "variant", "threat_model", "budget", "seed", "params")
SERVER = "MLFLOW_TRACKING_URI"
MLFLOW = {"DISABLE_TELEMETRY": "true", "HTTP_REQUEST_MAX_RETRIES": "2", "HTTP_REQUEST_TIMEOUT": "20"}
"""Limits a request to a minute; by default MLflow tries a dead server for a quarter of an hour."""


class _LoggedCell(NamedTuple):
    """One cell on a target: its settings, the mean of each score over the cases that have it, and its glimpse."""

    name: str
    settings: dict[str, str | float]
    means: dict[str, float]
    cases: int
    picture: Image.Image | None


def require(tracker: str, out: str) -> None:
    """Raises a UserError if a `tracker` of TRACKERS is not installed, or does not reach the store `out`, its root."""
    if importlib.util.find_spec(tracker) is None:
        raise UserError(f"--log {tracker}: expected the package {tracker}, got none: {installing(tracker)}")
    if not (storage.is_local(out) or (tracker == "mlflow" and SERVER in os.environ)):
        got = f"got {out}: leave --log out{f', or set {SERVER}' if tracker == 'mlflow' else ''}"
        raise UserError(f"--log {tracker}: expected --out as a folder of this machine, {got}")


def log(tracker: str, out: str) -> str:
    """Logs the scored cells of the store with the root `out` to a `tracker` of TRACKERS; returns the place. UserError:
    no server, or it refuses."""
    store = Store(out)
    try:
        return TRACKERS[tracker](out, str(store.job()["spec"]["name"]), _runs(store))
    except Exception as error:
        if type(error).__module__.partition(".")[0] != tracker:
            raise
        raise UserError(f"--log {tracker}: expected a server that answers, got {one_line(error, 200)}") from None


def _tensorboard(out: str, job: str, runs: Iterable[_LoggedCell]) -> str:
    from torch.utils.tensorboard import SummaryWriter

    folder = f"{storage.local_path(out)}/tensorboard"
    for run in runs:
        with SummaryWriter(f"{folder}/{run.name}") as writer:
            writer.add_hparams(run.settings, run.means, run_name=".", global_step=run.cases)
            if run.picture:
                writer.add_image("glimpse", np.asarray(run.picture), run.cases, dataformats="HWC")
    return folder


def _mlflow(out: str, job: str, runs: Iterable[_LoggedCell]) -> str:
    """Logs to the server that MLFLOW_TRACKING_URI names, else to OUT/mlflow.db; updates the means of known cells."""
    for name, value in MLFLOW.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)  # read when it is imported
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    local = None if SERVER in os.environ else Path(storage.local_path(out)).resolve()
    place = os.environ.get(SERVER) or f"sqlite:///{local}/mlflow.db"
    client = MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name(job)
    artifacts = local and (local / "mlflow").as_uri()
    number = experiment.experiment_id if experiment else client.create_experiment(job, artifact_location=artifacts)
    for run in runs:
        there = client.search_runs([number], f"attributes.run_name = '{run.name}'", max_results=1)
        run_id = (there[0] if there else client.create_run(number, run_name=run.name)).info.run_id
        metrics = [Metric(key, value, 0, run.cases) for key, value in run.means.items()]
        client.log_batch(run_id, metrics, [Param(key, str(value)) for key, value in run.settings.items()])
        if run.picture:
            client.log_image(run_id, run.picture, "glimpse.png")
        client.set_terminated(run_id)
    return place


def _wandb(out: str, job: str, runs: Iterable[_LoggedCell]) -> str:
    """Logs to the server of the library's settings; with WANDB_MODE=offline to OUT/wandb, for `wandb sync`."""
    import wandb

    folder = storage.local_path(out)
    place = ""
    settings = wandb.Settings(silent=True, console="off", init_timeout=20)
    try:
        for run in runs:
            about: dict[str, Any] = {"id": digest([job, run.name]), "name": run.name, "config": run.settings}
            with wandb.init(project=job, dir=folder, resume="allow", settings=settings, **about) as session:
                session.summary.update({**run.means, "cases": run.cases})
                if run.picture:
                    session.log({"glimpse": wandb.Image(run.picture)})
                place = "" if session.offline else session.project_url or ""
    finally:
        wandb.teardown()  # waits for its process, which still writes when a run is finished
    return place or f"{folder}/wandb"


Tracker = Callable[[str, str, Iterable[_LoggedCell]], str]  # of a store's place and its job's name
TRACKERS: Mapping[str, Tracker] = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}


def _runs(store: Store) -> Iterator[_LoggedCell]:
    columns = (*SETTINGS, *METRIC_OF, "added_metrics")
    _, records = found_records([store], keys_of([store.job()]), columns, may_be_empty=True)
    pictures = {cell_id: path for (cell_id, _), path in glimpses.paths_of(store.root).items()}
    names = dict(zip(records["target_model_id"], records["target_model"], strict=True))
    drawn = lru_cache(maxsize=1)(partial(glimpse, names=names))  # the targets of a cell follow each other
    for (cell_id, _), cell in records[records["status"] == "ok"].groupby(["cell_id", "target_model_id"], observed=True):
        scores = cell[[*METRIC_OF]].join(added_scores(cell))
        settings = cell[[*SETTINGS]].iloc[0]
        picture = pictures.get(str(cell_id))
        values = {str(name): float(v) if isinstance(v, int | float) else str(v) for name, v in settings.items()}
        means = {str(name): float(column.mean()) for name, column in scores.items()}
        yield _LoggedCell(
            name=f"{settings['attack']}-{settings['source_model']}-{settings['target_model']}-{cell_id}",
            settings=values,
            means={name: mean for name, mean in means.items() if math.isfinite(mean)},
            cases=len(cell),
            picture=drawn(picture) if picture else None,
        )
