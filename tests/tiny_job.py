"""A job whose attacks take milliseconds: two untrained networks on 24x20x16 voxels in windows of 16."""

import copy
import io
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import yaml
from rich.console import Console

from freqbench import models
from freqbench.core import config
from freqbench.engine import attacking, run
from freqbench.engine.rows import Outcome
from freqbench.engine.run import Summary
from freqbench.job.cells import Unit
from freqbench.job.grid import Grid, expand
from freqbench.job.schema import JobSpec
from freqbench.results import CLASS_RECORDS, KEY, RECORDS, Store

T = TypeVar("T")

ROI = [16, 16, 16]
SHAPE = [24, 20, 16]
ARGS = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
NUM_WINDOWS = 4

FIRST: dict[str, Any] = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI}
SECOND: dict[str, Any] = FIRST | {"name": "b", "args": ARGS | {"num_res_units": 1}}
JOB: dict[str, Any] = {
    "name": "tiny",
    "datasets": [{"name": "phantom", "shape": SHAPE, "cases": 2}],
    "models": [FIRST, SECOND],
    "attacks": [{"name": "pgd", "eps": ["4/255", "8/255"], "steps": 2}, {"name": "fgsm", "eps": "8/255"}],
    "metrics": ["dsc", "hd95"],
    "resources": {"threads": 1},
}
NEARLY_ALL = ["dsc", "hd95", "nsd", "assd", "volume", "components", "topology", "brats", "lesion", "calibration"]
NEARLY_ALL += ["ssim"]
GRID: dict[str, Any] = {
    **JOB,
    "datasets": [{"name": "phantom", "shape": [16, 16, 16], "cases": 2}],
    "attacks": [{"name": "fgsm", "eps": "8/255"}, {"name": "gn", "std": "8/255"}],
    "metrics": NEARLY_ALL,
    "save_adversarial": "nifti",
}
"""The job of the fixture `grid_store`: one window a case."""


def sent(value: T) -> T:
    """Returns an object as another process gets it; raises `queue.Empty` if it cannot be sent."""
    between: multiprocessing.Queue[T] = multiprocessing.Queue()
    between.put(value)
    return between.get(timeout=10)


def job(**changes: Any) -> dict[str, Any]:
    """The content of the job file, top-level keys replaced; little is expected of weights that nobody trained."""
    content = copy.deepcopy({**JOB, **changes})
    content["models"] = [{"expected_dice": 0.01, **entry} for entry in content["models"]]
    return content


def small(**changes: Any) -> dict[str, Any]:
    one = {
        "datasets": [{"name": "phantom", "shape": SHAPE, "cases": 1}],
        "models": JOB["models"][:1],
        "attacks": [{"name": "fgsm", "eps": "8/255"}],
    }
    return job(**{**one, **changes})


def save_weights(path: Path, num_classes: int = 6, seed: int = 0, args: Mapping[str, Any] = ARGS, **more: Any) -> None:
    """Freqbench's own checkpoint of an untrained network of the tiny job, which says what it is."""
    weights = models.build("unet", num_classes, (16, 16, 16), dict(args), seed=seed).state_dict()
    metadata = {"arch": "unet", "args": args, "roi": ROI, "num_classes": num_classes, **more}
    models.save_checkpoint(str(path), weights, metadata, half=False)


def write(folder: Path, content: Mapping[str, Any]) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return str(path)


def expanded(content: Mapping[str, Any]) -> tuple[JobSpec, Grid]:
    spec = config.validate(dict(content), JobSpec, where="job.yaml")
    return spec, expand(spec)


def execute(
    content: Mapping[str, Any],
    out: Path | str,
    said: io.StringIO | None = None,
    engine: run.Engine = "serial",
    **options: Any,
) -> Summary:
    console = Console(file=said or io.StringIO(), width=80)
    how = run.RunOptions(engine=engine, **options)
    return run.execute(expanded(content)[1], str(out), console, how)


def execute_aloud(content: Mapping[str, Any], out: str, log: str) -> None:
    """For a process that will be killed: commits after each unit, what it says goes to a file."""
    run.COMMIT_EVERY_S = 0.0
    torch.set_num_threads(1)
    with Path(log).open("w") as said:
        run.execute(expanded(content)[1], out, Console(file=said, width=80), run.RunOptions(engine="serial"))


def fail_below(patch: pytest.MonkeyPatch, eps: float) -> None:
    real = attacking.attack_case

    def attack_case(attack: Any, *args: Any) -> Any:
        if attack.eps < eps:
            raise OSError("disk on fire")
        return real(attack, *args)

    patch.setattr(attacking, "attack_case", attack_case)


def noted(patch: pytest.MonkeyPatch, owner: Any, name: str, note: Callable[..., T]) -> list[T]:
    """Notes of each call of a function from now on, made of its arguments; it does what it did."""
    real = getattr(owner, name)
    notes = list[T]()

    def call(*args: Any, **options: Any) -> Any:
        notes.append(note(*args, **options))
        return real(*args, **options)

    patch.setattr(owner, name, call)
    return notes


class Collector:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.said: list[str] = []
        self.passes: list[tuple[str, int]] = []
        self.workers: list[Mapping[str, Any]] = []

    def use(self, engine: Mapping[str, Any]) -> None: ...

    def wait(self, text: str) -> None: ...

    def begin(self, unit: Unit) -> None: ...

    def advance(self, unit: Unit, passes: int) -> None:
        self.passes.append((unit.name, passes))

    def take(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def tick(self, workers: Sequence[Mapping[str, Any]]) -> None:
        self.workers = list(workers)

    def keep(self, save: Callable[[], object]) -> None:
        save()

    def tell(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def results(outcomes: Sequence[Outcome]) -> tuple[dict[tuple[str, ...], Any], dict[tuple[str, ...], Any]]:
    """Records and class records by key, as `rows` and `class_rows`, without a store."""
    records = [*chain.from_iterable(outcome.records for outcome in outcomes)]
    classes = [*chain.from_iterable(chain(*outcome.class_records) for outcome in outcomes)]
    return _stable(records, RECORDS, KEY), _stable(classes, CLASS_RECORDS, (*KEY, "class_index"))


def rows(out: Path | str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Records by key, without the columns of an execution; the comparison of two stores. NaN as text."""
    return _stable(Store(str(out)).records().to_pylist(), RECORDS, KEY)


def class_rows(out: Path | str) -> dict[tuple[str, ...], dict[str, Any]]:
    return _stable(Store(str(out)).class_records().to_pylist(), CLASS_RECORDS, (*KEY, "class_index"))


def _stable(records: list[dict[str, Any]], columns: Any, key: tuple[str, ...]) -> dict[tuple[str, ...], dict[str, Any]]:
    kept = [column.name for column in columns if column.mark in ("identity", "result")]
    key_of = itemgetter(*key)
    values_of = itemgetter(*kept)
    by_key = {key_of(row): dict(zip(kept, map(repr, values_of(row)), strict=True)) for row in records}
    assert len(by_key) == len(records), "a key stands there twice"
    return by_key
