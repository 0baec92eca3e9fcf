"""Processes that share the crops of a step learn what one learns; by Ray Train, one of them may be killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import tiny_training
import yaml

from freqbench.job.training import TrainingSchedule
from freqbench.training import train
from freqbench.training.loop import Team, Trainer
from freqbench.training.state import Row, read_log

from .conftest import AT, NET, job_of

STEPS = 12
ARM = {**AT, **NET, "name": "net", "objective": "vaft", "start": "scratch"}
JOB = job_of(models=[ARM], steps=STEPS, lr=1e-3, threads=1, batch_size=8)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The log of one process."""
    out = tmp_path_factory.mktemp("alone")
    train(JOB, str(out), progress=False)
    return read_log(str(out / "net"))


@pytest.mark.parametrize(("size", "accumulate"), [(1, 1), (2, 2), (4, 1)])
def test_the_crops_of_a_step_are_shared_out_each_once(size: int, accumulate: int) -> None:
    schedule = TrainingSchedule(batch_size=8, accumulate=accumulate)
    parts = []
    for rank in range(size):
        trainer: Any = SimpleNamespace(training=SimpleNamespace(schedule=schedule), team=Team(rank=rank, size=size))
        parts += Trainer.parts(trainer, step=3)
    assert [*chain.from_iterable(parts)] == [*range(24, 32)]
    assert len(parts) == size * accumulate


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The log of two processes without Ray."""
    out = tmp_path_factory.mktemp("shared")
    job = JOB.model_dump(mode="json", exclude_none=True), str(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        second = multiprocessing.get_context("spawn").Process(target=tiny_training.take_part, args=(1, 2, *job))
        second.start()
    tiny_training.take_part(0, 2, *job)
    second.join()
    assert second.exitcode == 0
    return read_log(str(out / "net"))


@pytest.mark.integration
def test_two_processes_that_share_crops_learn_what_one_learns(shared: list[Row], alone: list[Row]) -> None:
    for row, expected in zip(shared, alone, strict=True):
        assert row.loss == pytest.approx(expected.loss, abs=2e-3)
        dice = (expected.dice_select, expected.dice_attacked)
        assert (row.dice_select, row.dice_attacked) == pytest.approx(dice, abs=0.01)


def parts_of(process: "subprocess.Popen[str]", name: str = "RayTrainWorker") -> list[psutil.Process]:
    """The processes that train, or others of its Ray."""
    rows = []
    for each in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(each.cmdline()):
                rows.append(each)
        except psutil.Error:  # gone meanwhile
            continue
    return rows


def started(folder: Path) -> "subprocess.Popen[str]":
    """The process of `train` by two workers."""
    job = JOB.model_dump(mode="json", exclude_none=True) | {"engine": "ray", "workers": 2}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-c", "from freqbench.cli import main; main()", "train", "job.yaml", "--out", "out"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, start_new_session=True, **piped)  # type: ignore[call-overload]


Disturb = Callable[["subprocess.Popen[str]"], object]


def disturbed(folder: Path, *disturbances: Disturb) -> tuple[int, list[str], float]:
    """Exit code, lines and seconds to the end of `train`, disturbed whenever a further row of its log is there."""
    net = str(folder / "out" / "net")
    process = started(folder)
    steps = list[int]()
    before = 0.0
    try:
        for disturb in disturbances:
            logged = len(read_log(net))
            while len(read_log(net)) == logged and process.poll() is None:
                time.sleep(0.02)
            before = time.monotonic()
            steps = [row.step for row in read_log(net)]
            if process.poll() is None:
                disturb(process)
        said, _ = process.communicate()
    finally:
        process.kill()
    assert max(steps, default=STEPS) < STEPS, said
    return process.returncode, said.splitlines(), time.monotonic() - before


for_ten_minutes = pytest.mark.timeout(600)


@pytest.mark.slow
@for_ten_minutes
def test_killed_worker_costs_no_step(shared: list[Row], tmp_path: Path) -> None:
    """Two starts of a group of workers, then Ctrl-C; rows of the log are told as they come, each once."""
    code, said, seconds = disturbed(
        tmp_path, lambda process: parts_of(process)[0].kill(), lambda process: os.killpg(process.pid, signal.SIGINT)
    )
    assert (code, said[-1]) == (130, "stopped: the same command goes on from here"), said
    assert seconds < 45
    last = started(tmp_path)
    text, _ = last.communicate()
    assert last.returncode == 0, text
    told = [line for line in (*said[:-1], *text.splitlines()) if line.startswith("net: step ")]
    assert len(told) == len(set(told)) <= STEPS // 2, told
    assert all(line.startswith("net: ") for line in said[:-1]), said
    assert json.loads((tmp_path / "out" / "net" / "training.json").read_text())["result"]["steps"] == STEPS
    assert repr(read_log(str(tmp_path / "out" / "net"))) == repr(shared)


@pytest.mark.slow
@for_ten_minutes
def test_a_training_whose_ray_has_lost_its_head_tells_why(tmp_path: Path) -> None:
    """Ray itself would end the process of a lost head after a minute, in a line of its own."""
    code, said, seconds = disturbed(tmp_path, lambda process: parts_of(process, "gcs_server")[0].kill())
    assert (code, said[-1]) == (1, "error: Ray's head process (gcs_server) has died: the same command goes on"), said
    assert all(text.startswith("net: ") for text in said[:-1]), said
    assert seconds < 45
