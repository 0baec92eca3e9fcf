"""One window of 144 x 208 x 160 mm of a real MR volume: seconds of a step and of scoring, and memory.

brainchop's files are fetched, or lie under FREQBENCH_DATA. A worker carries out a unit of 10 steps. The bare step is a
forward and one backward pass of the network in the same process; scoring is what `run` does by default: DSC, HD95,
SSIM, PSNR and LPIPS. Each dilated convolution of the networks stands beside PyTorch's own. `--fast`: a small box and
two steps; no bound is held.
"""

import time
from typing import Any

import pytest
import torch
from engine.cases import units_of
from tiny_job import job
from torch import Tensor, nn

from freqbench.core.errors import MissingDataError
from freqbench.engine.rows import add_surfaces
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.schema import DEFAULT_METRICS
from freqbench.models import ModelSpec, load
from freqbench.models.sources.meshnet import Dilated

SIZE = (144, 208, 160)
STEPS = 10
MOST_SCORING = 0.25
SCAN: dict[str, Any] = {
    **{"name": "t1", "loader": "images", "root": "brainchop://t1_crop.nii.gz", "reference": "prediction"},
    **{"labels": 3, "intensity": {"window": [0, 255]}, "crop_foreground": False},
}
ATTACKS: list[dict[str, Any]] = [
    {"name": "pgd", "eps": "2/255"},
    {"name": "vafa_opt", "q_max": 20, "block": 8},
    {"name": "sa2_opt", "rho": 0.2, "block": 8},
]


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack["name"] for attack in ATTACKS])
def test_a_unit_of_real_size(attack: dict[str, Any], measured: list[dict[str, Any]], fast: bool) -> None:
    size, steps = ((40, 40, 32), 2) if fast else (SIZE, STEPS)
    network = {"name": "model5", "checkpoint": "brainchop://model5_gw_ae", "roi": size}
    try:
        (unit,) = units_of(job(datasets=[SCAN | {"size": size}], models=[network], attacks=[attack | {"steps": steps}]))
    except MissingDataError as error:
        pytest.skip(str(error))
    bare = bare_step(unit.cell.source, size)
    made, masks = Worker(WorkerSpec(run_id="r", metrics=DEFAULT_METRICS, threads=torch.get_num_threads())).run(unit)
    started = time.perf_counter()
    outcome = add_surfaces(unit, made, masks)
    surfaces = time.perf_counter() - started
    assert not outcome.failed, outcome.records[0]["error"]
    record = outcome.records[0]
    scoring = record["score_seconds"] + surfaces
    row: dict[str, Any] = {
        "what": f"one window of {'x'.join(map(str, size))} voxels of an MR volume",
        "attack": attack["name"],
        "model": f"model5, {record['device']}, {torch.get_num_threads()} threads",
    }
    row |= {
        "bare step, s": bare,
        "attack step, s": record["attack_seconds"] / steps,
        "ratio": record["attack_seconds"] / steps / bare,
        f"attack of {steps} steps, s": record["attack_seconds"],
    }
    row |= {
        "prediction and scoring, s": scoring,
        "of these HD95, s": surfaces,
        "peak, GiB": record["peak_memory_bytes"] / 2**30,
    }
    measured.append(row)
    assert fast or scoring <= MOST_SCORING * record["attack_seconds"]


def bare_step(spec: ModelSpec, size: tuple[int, int, int]) -> float:
    """Seconds of one forward and one backward pass to the input, the faster of two."""
    model = load(spec, torch.device("cpu"))
    x = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        torch.autograd.grad(model(x).sum(), x)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [5, 11, 20])
@pytest.mark.parametrize("dilation", [2, 4, 8, 16])
def test_a_dilated_convolution(
    dilation: int, channels: int, threads: int, measured: list[dict[str, Any]], fast: bool
) -> None:
    size = (32, 32, 32) if fast else SIZE
    torch.set_num_threads(threads)
    options: dict[str, Any] = {"padding": dilation, "dilation": dilation}
    split = Dilated(channels, channels, 3, **options)
    plain = nn.Conv3d(channels, channels, 3, **options)
    x = torch.rand(1, channels, *size).requires_grad_()
    both = [passes_of(conv.requires_grad_(False), x) for conv in (split, plain)]
    row: dict[str, Any] = {
        "what": f"a convolution of dilation {dilation}, {'x'.join(map(str, size))} voxels",
        "model": f"{channels} channels, {threads} threads",
    }
    row |= {
        **{f"{name}, s": value for name, value in zip(("forward", "backward"), both[0], strict=True)},
    }
    row |= {
        **{f"PyTorch's {name}, s": value for name, value in zip(("forward", "backward"), both[1], strict=True)},
    }
    measured.append(row)
    assert fast or dilation < 4 or sum(both[0]) < sum(both[1])


def passes_of(conv: nn.Module, x: Tensor) -> tuple[float, float]:
    """Seconds of a forward and of a backward pass to the input, each the fastest of two."""
    seconds = []
    for _ in range(2):
        times = [time.perf_counter()]
        made = conv(x)
        times.append(time.perf_counter())
        torch.autograd.grad(made, x, torch.ones_like(made))
        times.append(time.perf_counter())
        seconds.append((times[1] - times[0], times[2] - times[1]))
    return min(forward for forward, _ in seconds), min(backward for _, backward in seconds)
