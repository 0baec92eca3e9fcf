"""Carries out a training job: one network after another, then the test figures of the stored weights."""

import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn

from freqbench import models
from freqbench.core import names
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.files.storage import join
from freqbench.core.identity import digest
from freqbench.core.machine import keep_freed_memory, versions
from freqbench.core.plugins import trusting
from freqbench.core.terminal import PlainConsole
from freqbench.core.types import Case, Shape, triple
from freqbench.job.training import TrainJob
from freqbench.training.loop import ALONE, NetworkTraining, Seen, Trainer, case_dice, fit, mean_foreground, save_best
from freqbench.training.plan import prepare
from freqbench.training.state import BEST, MARKS, RESULT, Row, State

Say = Callable[[str], None]
Tell = Callable[[Row], None]
Load = Callable[[str], list[Case]]  # of the cases of a role
Names = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Trained network; Dice are means over the foreground, 0..1."""

    name: str
    path: str  # of its `best.safetensors`
    dice_select: float  # of the best weights on the select list
    dice_attacked: float | None  # the mean under the attacks of the validation, None without one
    dice_test: float  # of the stored weights on the test list
    dice_test_classes: dict[str, float | None]  # the same by class, background included; null if no case has the class
    seconds: float  # of training
    steps: int
    wait_share: float  # the part of the seconds spent waiting for crops
    dice_worst: float | None = None  # the mean of each case's lowest under any attack of the validation


def train(
    job: TrainJob, out: str | None = None, progress: bool = True, only: Collection[str] | None = None
) -> list[TrainResult]:
    """Trains the networks of a job; skips finished ones and resumes interrupted ones. Raises UserError as `prepare`, or
    if a loss is not finite.

    Args:
        job: the training job.
        out: folder or URI with a folder for each network; None: `runs/<name>` by the job's name.
        progress: whether lines and a bar are shown, on stderr.
        only: names of the networks to train, with what they start from; None: all.
    """
    out = out or join("runs", job.name)
    if job.threads:
        torch.set_num_threads(job.threads)
    keep_freed_memory()
    with trusting(job.trust_code):
        prepared = prepare(job, out, only)
        cases = cache(prepared.cases)
        told: set[Shape] = set()
        names = prepared.lists["test"].class_names
        return [_train_one(job, training, names, cases, out, progress, told) for training in prepared.trainings]


def finished_result(training: NetworkTraining, out: str) -> TrainResult | None:
    """Returns the result of the network of a `training` that `train` would skip in `out`: its weights are still those
    measured."""
    path, best = (join(out, training.model.name, name) for name in (RESULT, BEST))
    if not storage.exists(path) or not storage.exists(best):
        return None
    content = object_of(storage.read_bytes(path), path)
    if content.get("key") != _key(training) or content.get("sha256") != storage.sha256(best):
        return None
    return TrainResult(**content["result"] | {"path": best})


def _train_one(
    job: TrainJob, training: NetworkTraining, classes: Names, cases: Load, out: str, progress: bool, told: set[Shape]
) -> TrainResult:
    """Trains a network, unless it is finished; `told` are the ROIs whose padding the user knows of."""
    folder = join(out, training.model.name)
    names.require_inside(out, folder)
    former = finished_result(training, out)
    with _steps_shown(training, folder, progress) as (say, seen, tell):
        if former:
            say(f"{former.name}: finished before, test Dice {former.dice_test:.3f}")
            return former
        for name in (RESULT,) if storage.exists(join(folder, RESULT)) else MARKS:
            storage.require_own(join(folder, name), MARKS[name])
        if training.roi not in told:
            told.add(training.roi)
            _say_padded(cases("train"), training, say)
        if training.quick:
            under = ", ".join(attack.name for attack in training.quick)
            say(f"{training.model.name}: weights are chosen by {training.choose_by} Dice, attacked by {under}")
        began = time.time()
        if job.engine == "ray":
            from freqbench.training.distributed import fit_on_ray

            fit_on_ray(job, training.model.name, out, folder, tell)
            state = Trainer(training, folder, ALONE).state
        else:
            state = fit(training, cases("train"), cases("select"), folder, seen)
        result = _measure(training, state, classes, cases("test"), folder)
        content = {
            "key": _key(training),
            "sha256": storage.sha256(result.path),
            "result": asdict(result),
            **_circumstances(job, training, state, time.time() - began),
        }
        storage.write_atomic(join(folder, RESULT), (json.dumps(content, indent=1) + "\n").encode())
        say(f"{result.name}: {result.steps} steps in {result.seconds:.0f} s, test Dice {result.dice_test:.3f}")
    return result


def _circumstances(job: TrainJob, training: NetworkTraining, state: State, wall: float) -> dict[str, Any]:
    """Collects what a training was of and what it took; `wall` are the seconds of the last call."""
    on_cuda = ALONE.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_cuda else f"cpu, {torch.get_num_threads()} threads"
    processes = job.workers if job.engine == "ray" else 1
    seconds = {
        "wall_of_last_call": wall,
        "steps": state.seconds,
        "waited_for_crops": state.waited,
        "validation": state.validated,
        "gpu": (state.seconds + state.validated) * processes if on_cuda else 0.0,
    }
    return {
        "job": job.model_dump(mode="json", exclude_none=True),
        "identity": training.identity,
        "record": training.record,
        "fingerprints": training.fingerprints,
        "versions": versions(),
        "device": device,
        "seed": training.seed,
        "seconds": seconds,
    }


def _say_padded(cases: list[Case], training: NetworkTraining, say: Say) -> None:
    """Reports volumes smaller than the crop; if all are, also the largest crop within them that the network takes."""
    shapes = np.array([case.image.shape[1:] for case in cases])  # [cases, 3]
    small = int((shapes < training.roi).any(axis=1).sum())
    hint = ""
    if small == len(cases):
        least = shapes.min(axis=0).clip(max=training.roi).tolist()
        hint = f". The network takes no crop within {least}"
        for multiple in (1, 2, 4, 8, 16, 32):
            roi = [side // multiple * multiple for side in least]
            with suppress(UserError):
                if min(roi):
                    training.resolve("random", triple(roi))
                    hint = f". roi: {roi} would fit all"
                    break
    crop = "x".join(map(str, training.roi))
    if small:
        say(f"{small} of {len(cases)} volumes are smaller than the crop {crop} on some axis: padded with zeros{hint}")


def _key(training: NetworkTraining) -> str:
    """Digest (16 hex digits) of all settings that shape a stored file."""
    return digest([training.identity, training.half, training.schedule.max_minutes])


def _measure(training: NetworkTraining, state: State, classes: Names, test: list[Case], folder: str) -> TrainResult:
    """Measures the stored weights, rounded as they are, on the test list; stores the scores beside them."""
    path = join(folder, BEST)
    save_best(training, state, folder, state.figures)
    model = models.load(training.resolve(path), ALONE.device)
    scores = np.stack(list(case_dice(model, list(enumerate(test)), training.num_classes).values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that no case has is NaN, and stored as null
        means = np.nanmean(scores, axis=0)
    by_class = {name: _unless_nan(mean) for name, mean in zip(classes, means.tolist(), strict=True)}
    wait_share = state.waited / state.seconds if state.seconds else 0.0
    result = TrainResult(
        name=training.model.name,
        path=path,
        dice_select=state.dice_select,
        dice_attacked=_unless_nan(state.dice_attacked),
        dice_worst=_unless_nan(state.dice_worst),
        dice_test=mean_foreground(scores),
        dice_test_classes=by_class,
        seconds=state.seconds,
        steps=state.step,
        wait_share=wait_share,
    )
    facts: dict[str, Any] = asdict(result)
    save_best(training, state, folder, {key: facts[key] for key in facts if key not in ("name", "path")})
    return result


def _unless_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


class StepsLeft:
    """Time until the last step of a training: its pace since the first step that was heard of, validations included."""

    def __init__(self, steps: int, max_minutes: float | None) -> None:
        self._steps = steps
        self._limit = math.inf if max_minutes is None else 60 * max_minutes
        self._first: tuple[int, float] | None = None  # a step and the time when it was heard of

    def time_left(self, step: int, now: float) -> float | None:
        """Returns the seconds left after a step that has ended `now` (on a clock in seconds), at most the limit's; None
        without a pace."""
        if self._first is None:
            self._first = step, now
        first, began = self._first
        if step == first:
            return None
        return max(0.0, min((self._steps - step) * (now - began) / (step - first), self._limit - (now - began)))


@contextmanager
def _steps_shown(training: NetworkTraining, folder: str, progress: bool) -> Iterator[tuple[Say, Seen, Tell]]:
    """Yields functions that print a line, show a finished step, and show a row of the log."""
    console = PlainConsole(stderr=True, quiet=not progress)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    bar = Progress(*columns, TextColumn("{task.fields[rest]}"), console=console, disable=not console.is_terminal)
    name = training.model.name
    schedule = training.schedule
    steps = schedule.steps
    left = StepsLeft(steps, schedule.max_minutes)
    draw = _curves(folder)
    with bar:
        task = bar.add_task(name, total=steps, rest="")

        def say(line: str) -> None:
            console.print(line, soft_wrap=True)

        def show(step: int) -> float | None:
            seconds = left.time_left(step, time.monotonic())
            spoken = "" if seconds is None else f"left: {timedelta(seconds=round(seconds))}"
            bar.update(task, completed=step, rest=spoken)
            return seconds

        def tell(row: Row) -> None:
            seconds = show(row.step)
            draw(row)
            attacked = "" if math.isnan(row.dice_attacked) else f", attacked {row.dice_attacked:.3f}"
            attacked += f", worst {row.dice_worst:.3f}" if len(training.quick) > 1 else ""
            about = f", about {seconds:.0f} s left" if seconds else ""
            rest = f"loss {row.loss:.3f}, select Dice {row.dice_select:.3f}{attacked}{about}"
            say(f"{name}: step {row.step}/{steps}, lr {row.lr:.2g}, {rest}")

        def show_state(state: State) -> None:
            if state.log and state.log[-1].step == state.step:
                tell(state.log[-1])
            else:
                show(state.step)

        yield say, show_state, tell


def _curves(folder: str) -> Tell:
    """Makes a function that appends rows to TensorBoard's file, if installed: its own writer dies of full disks."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        return lambda row: None
    if not storage.is_local(folder):
        return lambda row: None
    path = Path(storage.local_path(folder), "tensorboard", f"events.out.tfevents.{time.time_ns()}.{os.getpid()}")

    def draw(row: Row) -> None:
        content = io.BytesIO()
        now = time.time()
        values = [(name, value) for name, value in asdict(row).items() if name != "step" and value == value]
        with suppress(OSError):  # a row less; the log has it
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                begun = file.tell()
                events = [] if begun else [Event(wall_time=now, file_version="brain.Event:2")]
                summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values])
                for event in (*events, Event(wall_time=now, step=row.step, summary=summary)):
                    RecordWriter(content).write(event.SerializeToString())
                if file.write(content.getvalue()) < content.tell():
                    file.truncate(begun)

    return draw
