"""Passes that keep freed memory, as a ratio of medians to those that give it back; `--fast`: one turn, no bound."""

import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools.benchmarks.processes import Measured

SCRIPT = """
import sys, time, torch
from freqbench.core.machine import keep_freed_memory
from freqbench.models import build

torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
name, size, repeats = sys.argv[2], tuple(map(int, sys.argv[3].split(","))), int(sys.argv[4])
args = {"unet": {"channels": [16, 32, 64, 128], "strides": [2, 2, 2], "num_res_units": 2}, "unetr": {}}[name]
network, image = build(name, 4, size, args, seed=0).eval().requires_grad_(False), torch.rand(1, 1, *size)

def prediction():
    with torch.inference_mode():
        network(image)

def step():
    network(image.clone().requires_grad_(True)).square().mean().backward()

for action in prediction, step:
    action()
    started = time.process_time()
    for _ in range(repeats):
        action()
    print(time.process_time() - started)
"""


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "size", "repeats"),
    [("unet", "64,64,32", 20), ("unet", "96,96,96", 6), ("unet", "128,128,128", 3), ("unetr", "96,96,96", 2)],
)
def test_kept_memory_makes_passes_faster(
    name: str, size: str, repeats: int, tmp_path: Path, measured: list[dict[str, Any]], fast: bool
) -> None:
    runs: dict[str, list[Measured]] = {"returned": [], "kept": []}
    for _ in range(1 if fast else 5):
        for way, of_way in runs.items():
            of_way.append(Measured(tmp_path, "-c", SCRIPT, way, name, size, str(repeats)))

    def median(way: str, line: int) -> float:
        return statistics.median(float(run.said.split()[line]) for run in runs[way])

    ratios = {part: median("kept", i) / median("returned", i) for i, part in enumerate(("prediction", "step"))}
    mib = {way: statistics.median(run.mib for run in of_way) for way, of_way in runs.items()}
    measured.append({"what": f"{name} {size}", **ratios, "memory": mib["kept"] / mib["returned"]})
    assert fast or max(ratios.values()) < 0.95


FAULTS = """
import resource
import torch
from freqbench.engine.worker import Worker, WorkerSpec

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(mib << 18) for mib in (1, 8, 40, 300)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
before = faults()
Worker(WorkerSpec(run_id="r", metrics=()))
faults()
print(before, faults())
"""


@pytest.mark.integration
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no other C library is set")
def test_memory_that_a_pass_frees_is_kept_for_the_next() -> None:
    """A process of its own runs this, as the setting is the process's."""
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    before, after = map(int, out.split())
    assert before > 1000
    assert after < before / 20
