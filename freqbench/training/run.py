"""A training job carried out: lists of cases, one network after another, the test figures of the stored weights."""

import json
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from freqbench import models, names
from freqbench.data import Dataset
from freqbench.documents import object_of
from freqbench.errors import UserError
from freqbench.identity import digest
from freqbench.job import build_dataset
from freqbench.storage import exists, join, read_bytes, sha256, write_atomic
from freqbench.terminal import PlainConsole
from freqbench.training.clean import CleanTraining, case_dice, mean_foreground, save_best, train_clean
from freqbench.training.recipe import ModelRecipe, TrainJob
from freqbench.training.state import BEST, State
from freqbench.types import Case, CaseRef

RESULT = "result.json"
ROLES = ("train", "select", "test")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained network.

    Attributes:
        name: of the model in the job.
        path: of its `best.safetensors`.
        dice_select: mean foreground Dice of the best weights on the select list, 0..1.
        dice_test: mean foreground Dice of the stored weights on the test list, 0..1.
        dice_test_classes: the same for each class by name, background included; null where no case has the class.
        seconds: of training.
        steps: optimizer steps done.
    """

    name: str
    path: str
    dice_select: float
    dice_test: float
    dice_test_classes: dict[str, float | None]
    seconds: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A training job whose lists have been read: each by its role, and what shapes each network."""

    lists: dict[str, Dataset]
    refs: dict[str, tuple[CaseRef, ...]]
    trainings: list[CleanTraining]


def train(
    job: TrainJob, out: str | None = None, progress: bool = True, only: Collection[str] | None = None
) -> list[TrainResult]:
    """Train the networks of a job; what is finished is skipped, what was interrupted goes on.

    Args:
        job: what to train.
        out: folder or URI of the results, `runs/<name>` unless given: `OUT/<model>/best.safetensors` and its log.
        progress: show a progress bar, or plain lines where standard error is no terminal.
        only: names of the networks that are wanted; None: all.

    Returns:
        One result a model, in the job's order.

    Raises:
        UserError: the job names what does not exist, its lists share cases, or an architecture refuses its arguments.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    out = out or join("runs", job.name)
    if job.threads:
        torch.set_num_threads(job.threads)
    prepared = _prepare(job)
    wanted = [each for each in prepared.trainings if only is None or each.model.name in only]
    for training in wanted:
        models.resolve(_entry(training.model, "random"), training.num_classes)

    @cache
    def cases(role: str) -> list[Case]:
        return [prepared.lists[role].load(ref) for ref in prepared.refs[role]]

    return [_train_one(training, prepared.lists["test"].class_names, cases, out, progress) for training in wanted]


def identities(job: TrainJob) -> dict[str, str]:
    """Of each network by its name, 16 hex digits of all that shapes its weights; lists are read, nothing is trained.

    Raises:
        UserError: as `train`.
        MissingDataError: cases of the lists are not on this machine.
    """
    return {training.model.name: training.identity for training in _prepare(job).trainings}


def finished(job: TrainJob, out: str | None = None) -> dict[str, TrainResult]:
    """The networks of a job that `train` would skip, by their names.

    Raises:
        UserError: as `train`.
        MissingDataError: cases of the lists are not on this machine.
    """
    out = out or join("runs", job.name)
    found = {each.model.name: _finished(join(out, each.model.name), _key(each)) for each in _prepare(job).trainings}
    return {name: result for name, result in found.items() if result}


def _prepare(job: TrainJob) -> _Prepared:
    lists = job_lists(job)
    refs = {role: lists[role].refs() for role in ROLES}
    _refuse_overlap(job, refs)
    trainings = [clean_training(job, model, lists["train"], refs) for model in job.models]
    return _Prepared(lists=lists, refs=refs, trainings=trainings)


def job_lists(job: TrainJob) -> dict[str, Dataset]:
    """The dataset that a job names, once for each role, with the role's list as its split."""
    if "name" not in job.dataset:
        raise UserError(f"{job.name}: dataset.name: required, but not given")
    where = f"{job.name}: dataset"
    return {role: build_dataset({**job.dataset, "split": getattr(job.splits, role)}, where) for role in ROLES}


def clean_training(
    job: TrainJob, model: ModelRecipe, dataset: Dataset, refs: dict[str, tuple[CaseRef, ...]]
) -> CleanTraining:
    """All that shapes one network's weights, and the record of it that is stored beside them."""
    schedule = job.schedule(model)
    record = {
        "job": job.name,
        "dataset": dataset.name,
        "recipe": dataset.recipe(),
        "class_names": dataset.class_names,
        "splits": job.splits.model_dump(),
        "cases": {role: digest([ref.fingerprint for ref in refs[role]]) for role in ROLES},
        "seed": job.seed,
        "threads": job.threads,
        "schedule": schedule.model_dump(exclude={"max_minutes"}),
        "augmentation": job.augmentation.model_dump(),
    }
    return CleanTraining(
        model=model,
        schedule=schedule,
        augmentation=job.augmentation,
        seed=job.seed,
        num_classes=dataset.num_classes,
        half=job.half,
        record=record,
        fingerprints={role: [ref.fingerprint for ref in refs[role]] for role in ("train", "select")},
    )


def _refuse_overlap(job: TrainJob, refs: dict[str, tuple[CaseRef, ...]]) -> None:
    for role in ROLES:
        if not refs[role]:
            raise UserError(f"{job.name}: splits.{role}: expected cases in {getattr(job.splits, role)!r}, got none")
    for first, second in (("train", "select"), ("train", "test"), ("select", "test")):
        known = {ref.fingerprint for ref in refs[first]}
        shared = [ref.case_id for ref in refs[second] if ref.fingerprint in known]
        if shared:
            raise UserError(
                f"{job.name}: splits: expected lists without a case in common, got {len(shared)} in {first} and "
                f"{second} (first: {shared[0]}): a case that was learned from cannot test; change the lists"
            )


def _entry(model: ModelRecipe, checkpoint: str) -> models.ModelEntry:
    return models.ModelEntry(name=model.name, arch=model.arch, checkpoint=checkpoint, args=model.args, roi=model.roi)


def _train_one(
    training: CleanTraining, class_names: tuple[str, ...], cases: Callable[[str], list[Case]], out: str, progress: bool
) -> TrainResult:
    folder = join(out, training.model.name)
    names.require_inside(out, folder)
    key = _key(training)
    former = _finished(folder, key)
    with _steps_shown(training, progress) as (say, seen):
        if former:
            say(f"{former.name}: finished before, test Dice {former.dice_test:.3f}")
            return former
        state = train_clean(training, cases("train"), cases("select"), folder, seen)
        result = _measure(training, state, class_names, cases("test"), folder)
        content = {"key": key, "sha256": sha256(result.path), "result": asdict(result)}
        write_atomic(join(folder, RESULT), (json.dumps(content, indent=1) + "\n").encode())
        say(f"{result.name}: {result.steps} steps in {result.seconds:.0f} s, test Dice {result.dice_test:.3f}")
    return result


def _key(training: CleanTraining) -> str:
    """16 hex digits of all that shapes a stored file."""
    return digest([training.identity, training.half, training.schedule.max_minutes])


def _finished(folder: str, key: str) -> TrainResult | None:
    """The result of an earlier call of the same content whose weights are still those that were measured."""
    path = join(folder, RESULT)
    if not exists(path) or not exists(join(folder, BEST)):
        return None
    content = object_of(read_bytes(path), path)
    if content.get("key") != key or content.get("sha256") != sha256(join(folder, BEST)):
        return None
    return TrainResult(**content["result"] | {"path": join(folder, BEST)})


def _measure(
    training: CleanTraining, state: State, class_names: tuple[str, ...], test: list[Case], folder: str
) -> TrainResult:
    """Measure the stored weights, rounded as they are, on the test list, and store the figures beside them."""
    path = join(folder, BEST)
    save_best(training, state, folder, {"dice_select": state.dice_select})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.load(models.resolve(_entry(training.model, path), training.num_classes), device)
    scores = case_dice(model, test, training.num_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that no case has is NaN, and stored as null
        means = np.nanmean(scores, axis=0)
    by_class = {name: None if np.isnan(mean) else float(mean) for name, mean in zip(class_names, means, strict=True)}
    result = TrainResult(
        name=training.model.name,
        path=path,
        dice_select=state.dice_select,
        dice_test=mean_foreground(scores),
        dice_test_classes=by_class,
        seconds=state.seconds,
        steps=state.step,
    )
    found: dict[str, Any] = asdict(result)
    save_best(training, state, folder, {key: found[key] for key in found if key not in ("name", "path")})
    return result


@contextmanager
def _steps_shown(training: CleanTraining, progress: bool) -> Iterator[tuple[Say, Callable[[State], None]]]:
    """A way to say a line, and a way to show that a step was done."""
    console = PlainConsole(stderr=True, quiet=not progress)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    name = training.model.name
    with bar:
        task = bar.add_task(name, total=training.schedule.steps)

        def seen(state: State) -> None:
            bar.update(task, completed=state.step)
            if state.log and state.log[-1][0] == state.step:
                step, rate, loss, found = state.log[-1]
                console.print(
                    f"{name}: step {step}/{training.schedule.steps}, {state.seconds:.0f} s, lr {rate:.2g}, "
                    f"loss {loss:.3f}, select Dice {found:.3f}",
                    soft_wrap=True,
                )

        yield lambda line: console.print(line, soft_wrap=True), seen
