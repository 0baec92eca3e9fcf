"""1,000 draws of a certificate, as ratios to the bare forward passes of their windows, by seconds of the core.

Measured on one thread of an idle machine. Draws and passes take turns, ten times; the median ratio counts. Passes run
twice: in a plain PyTorch process, and in the process of the draws, which keeps freed memory and so makes passes faster
too. `--fast`: 10 draws; no bound is held.
"""

import statistics
import time
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.benchmarks.processes import Measured

import freqbench as fb
from freqbench.core.machine import keep_freed_memory
from freqbench.engine import memory
from freqbench.models.defences.smoothing import Smoothing
from freqbench.models.inference import sliding_windows

TURNS = 10
MOST = 1.1
MOST_OF_KEPT = 1.2
SIGMAS = {"bias_field": 0.5, "gain_offset": 0.1, "voxels": 0.0625, "dct_bands": 0.3, "fourier_shift": 1.0}

PLAIN = """
import sys, time, torch
import freqbench as fb

torch.set_num_threads(1)
network, crops = fb.load_model("zoo://phantom/unet").network.net, torch.rand(*map(int, sys.argv[2:]))
with torch.inference_mode():
    network(crops)
    started = time.process_time()
    for _ in range(int(sys.argv[1])):
        network(crops)
print(time.process_time() - started)
"""


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", SIGMAS)
def test_draws_cost_little_more_than_their_passes(
    kind: str, tmp_path: Path, measured: list[dict[str, Any]], fast: bool
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as `certify` and `run` do
    model = fb.load_model("zoo://phantom/unet")
    case = fb.load_dataset("phantom", split="test")[0]
    dataset, source = model._fit_case(case)
    volume = case._load_in(dataset, source.space)
    samples = 1 if fast else 100
    network = copy(model.network)
    network.defence = Smoothing(kind=kind, sigma=SIGMAS[kind], samples=samples)
    windows = sliding_windows(volume.image.shape[1:], network.roi, network.inference.overlap)
    crops = torch.stack([volume.image[:, h, w, d] for h, w, d in windows])
    assert len(crops) <= memory.INFERENCE_WINDOWS, "the passes below are those of a prediction"

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(samples + 1):  # the draw of median score is predicted twice
                network.net(crops)

    def draws() -> None:
        memory.segment(network, volume, memory.INFERENCE_WINDOWS)

    def seconds(action: Any) -> float:
        started = time.process_time()
        action()
        return time.process_time() - started

    def plain() -> float:
        return float(Measured(tmp_path, "-c", PLAIN, *map(str, (samples + 1, *crops.shape))).said)

    turns = [(plain(), seconds(bare), seconds(draws)) for _ in range(1 if fast else TURNS)]
    ratio, of_kept = (statistics.median(turn[2] / turn[passes] for turn in turns) for passes in (0, 1))
    of_plain, of_bare, of_draws = map(sum, zip(*turns, strict=True))
    measured.append(
        {
            "what": f"{len(turns) * samples} draws of a phantom case, {len(crops)} windows each",
            "kind": kind,
            "passes of a plain process, s": of_plain,
            "passes with freed memory kept, s": of_bare,
            "draws, s": of_draws,
            "ratio to plain passes": ratio,
            "ratio to passes with freed memory kept": of_kept,
        }
    )
    assert fast or ratio <= MOST
    assert fast or of_kept <= MOST_OF_KEPT
