"""Data-parallel training by Ray Train on this machine: two processes, gloo, one of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from freqbench.core.config import validate
from freqbench.training import TrainJob, train
from freqbench.training.state import read_log

pytestmark = pytest.mark.timeout(600)  # two starts of a group of workers on a busy machine

STEPS = 12
JOB: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "phantom", "shape": [24, 20, 16], "cases": 4},
    "splits": {"train": "train", "select": "validation", "test": "test"},
    "models": [
        {
            "name": "net",
            "arch": "unet",
            "args": {"channels": [4, 8], "strides": [2], "num_res_units": 1},
            "roi": [16, 16, 16],
            "start": "scratch",
            "objective": "vaft",
            "attack": {"name": "pgd", "eps": "4/255", "steps": 2},
        }
    ],
    "steps": STEPS,
    "batch_size": 2,
    "lr": 1e-3,
    "warmup_steps": 2,
    "validate_every": 2,
    "threads": 1,
    "loaders": 0,
}
COMMAND = "from freqbench.cli import main; main()"


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that train."""
    below = psutil.Process(process.pid).children(recursive=True)
    found = []
    for each in below:
        try:
            if "RayTrainWorker" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:  # gone meanwhile
            continue
    return found


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """OUT of a training of which a worker was killed, the step that was in the store then, and what was said."""
    folder = tmp_path_factory.mktemp("killed")
    job = folder / "job.yaml"
    # Steps as slow as those of a real network, so that the kill comes in between.
    job.write_text(yaml.safe_dump({**JOB, "engine": "ray", "workers": 2, "batch_size": 8}))
    command = [sys.executable, "-c", COMMAND, "train", str(job), "--out", "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=folder, env={**os.environ})
    try:
        net, deadline = str(folder / "out" / "net"), time.monotonic() + 250
        while not read_log(net) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        victims, reached = workers_of(process), [row.step for row in read_log(net)]
        for victim in victims[:1]:
            victim.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=250)
    finally:
        process.kill()
    assert victims, f"no worker was found, {reached} was logged"
    assert process.returncode == 0, said.decode()
    return folder / "out", reached[-1], said.decode()


def test_a_killed_worker_costs_no_step(killed: tuple[Path, int, str]) -> None:
    out, reached, _ = killed
    assert reached < STEPS
    assert json.loads((out / "net" / "training.json").read_text())["result"]["steps"] == STEPS
    assert [row.step for row in read_log(str(out / "net"))] == list(range(2, STEPS + 1, 2))


def test_two_processes_that_share_crops_learn_what_one_learns(killed: tuple[Path, int, str], tmp_path: Path) -> None:
    """Losses of all steps, and the Dice, clean and attacked, that they lead to; across the kill."""
    out, _, _ = killed
    train(validate({**JOB, "batch_size": 8}, TrainJob, "tiny"), str(tmp_path), progress=False)
    for shared, alone in zip(read_log(str(out / "net")), read_log(str(tmp_path / "net")), strict=True):
        assert shared.loss == pytest.approx(alone.loss, abs=2e-3)
        assert shared.dice_select == pytest.approx(alone.dice_select, abs=0.01)
        assert shared.dice_attacked == pytest.approx(alone.dice_attacked, abs=0.01)


def test_rows_of_the_log_are_told_as_they_come(killed: tuple[Path, int, str]) -> None:
    _, _, said = killed
    told = [line for line in said.splitlines() if line.startswith("net: step ")]
    assert len(told) == STEPS // 2, said
