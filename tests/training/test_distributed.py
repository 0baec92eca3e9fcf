"""Processes that share the crops of a step learn what one learns; by Ray Train, one of them may be killed."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import toy_training
import yaml

from freqbench.job.training import Schedule
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
    schedule = Schedule(batch_size=8, accumulate=accumulate)
    parts = [
        part
        for rank in range(size)
        for part in Trainer.parts(
            SimpleNamespace(training=SimpleNamespace(schedule=schedule), team=Team(rank=rank, size=size)),  # type: ignore[arg-type]
            step=3,
        )
    ]
    assert [number for part in parts for number in part] == list(range(24, 32))
    assert len(parts) == size * accumulate


def assert_alike(found: list[Row], alone: list[Row]) -> None:
    """Losses of all steps, and the Dice, clean and attacked, that they lead to."""
    for row, expected in zip(found, alone, strict=True):
        assert row.loss == pytest.approx(expected.loss, abs=2e-3)
        assert row.dice_select == pytest.approx(expected.dice_select, abs=0.01)
        assert row.dice_attacked == pytest.approx(expected.dice_attacked, abs=0.01)


@pytest.mark.integration
def test_two_processes_that_share_crops_learn_what_one_learns(alone: list[Row], tmp_path: Path) -> None:
    job = JOB.model_dump(mode="json", exclude_none=True), str(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        second = multiprocessing.get_context("spawn").Process(target=toy_training.take_part, args=(1, 2, *job))
        second.start()
    toy_training.take_part(0, 2, *job)
    second.join()
    assert second.exitcode == 0
    assert_alike(read_log(str(tmp_path / "net")), alone)


def workers_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The processes that train."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:  # gone meanwhile
            continue
    return found


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_killed_worker_costs_no_step(alone: list[Row], tmp_path: Path) -> None:
    """Two starts of a group of workers; rows of the log are told as they come."""
    job = JOB.model_dump(mode="json", exclude_none=True) | {"engine": "ray", "workers": 2}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-c", "from freqbench.cli import main; main()", "train", "job.yaml", "--out", "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path)
    net = str(tmp_path / "out" / "net")
    try:
        while not read_log(net) and process.poll() is None:
            time.sleep(0.02)
        victims, reached = workers_of(process), [row.step for row in read_log(net)]
        for victim in victims[:1]:
            victim.kill()
        _, said = process.communicate()
    finally:
        process.kill()
    assert victims, f"no worker was found, {reached} was logged"
    assert process.returncode == 0, said.decode()
    assert reached[-1] < STEPS
    assert json.loads((tmp_path / "out" / "net" / "training.json").read_text())["result"]["steps"] == STEPS
    assert_alike(read_log(net), alone)
    told = [line for line in said.decode().splitlines() if line.startswith("net: step ")]
    assert len(told) == STEPS // 2, said.decode()
