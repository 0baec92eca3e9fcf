"""Seconds of the parts of one unit: attack, prediction and metrics, surfaces, reading; and the device's idle share.

A worker carries out three units on the papers' UNet, of which the second is measured: model and window batch are there,
the next case is read meanwhile. Idle is the share of its time in which no kernel ran on a GPU, as the profiler saw
them; on a CPU no operation of torch. `--fast`: a small volume and network; no bound is held.
"""

import time
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from engine.cases import units_of
from tiny_job import ARGS, small
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from freqbench.core.machine import available_cores
from freqbench.engine.rows import add_surfaces
from freqbench.engine.worker import Worker, WorkerSpec

ON_GPU = torch.cuda.is_available()
ATTACK = {"name": "pgd", "eps": "8/255", "steps": 20}
MOST_IDLE = 0.03
UNET = {"name": "unet", "arch": "unet", "checkpoint": "random"}


def busy(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one of some spans lasted."""
    total = 0.0
    until = float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_one_unit_end_to_end(measured: list[dict[str, Any]], fast: bool) -> None:
    net = {**UNET, "args": ARGS, "roi": [16] * 3} if fast else UNET
    shape, size = ([24, 20, 16], "small ") if fast else ([224, 192, 144], "")
    job = small(datasets=[{"name": "phantom", "shape": shape, "cases": 3}], models=[net], attacks=[ATTACK])
    first, unit, following = units_of({**job, "precision": "tf32" if ON_GPU else "fp32"})
    worker = Worker(WorkerSpec(run_id="r", metrics=("dsc", "hd95", "ssim", "psnr"), threads=available_cores()))
    worker.run(first, prefetch=unit)
    with profile(activities=[ProfilerActivity.CUDA if ON_GPU else ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        made, masks = worker.run(unit, prefetch=following)
        scored = time.perf_counter()
        outcome = add_surfaces(unit, made, masks)
        whole = time.perf_counter() - began
    assert not outcome.failed
    kind = DeviceType.CUDA if ON_GPU else DeviceType.CPU
    events = [each.time_range for each in profiler.events() or () if each.device_type == kind]
    record = outcome.records[0]
    row: dict[str, Any] = {
        "what": f"one unit, {'x'.join(map(str, shape))} voxels, pgd of 20 steps",
        "model": f"{size}unet, batch {record['window_batch']}, {record['precision']}, {record['device']}",
    }
    row |= {
        "whole, s": whole,
        "attack, s": record["attack_seconds"],
        "prediction and metrics, s": record["score_seconds"],
        "surfaces, s": whole - (scored - began),
        "reading, s": made.load_seconds,
    }
    row |= {
        "idle": 1 - busy((each.start, each.end) for each in events) / 1e6 / whole,
    }
    measured.append(row)
    assert fast or not ON_GPU or measured[-1]["idle"] <= MOST_IDLE


@pytest.mark.benchmark
def test_busy_counts_what_overlaps_once() -> None:
    assert busy([(0, 2), (1, 3), (1, 2), (5, 6)]) == 4
