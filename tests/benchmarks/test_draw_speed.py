"""1,000 draws of a certificate, as a ratio to the bare forward passes of their windows, by seconds of the core.

`pytest -m benchmark -s tests/benchmarks/test_draw_speed.py --json draws.json`, on one thread of an idle machine. Draws
and passes take turns, ten times; the median ratio counts. `--fast`: 10 draws; no bound is held.
"""

import statistics
import time
from copy import copy
from typing import Any

import pytest
import torch

import freqbench as fb
from freqbench.core.machine import keep_freed_memory
from freqbench.engine import memory
from freqbench.models.defences.smoothing import Smoothing
from freqbench.models.inference import sliding_windows

TURNS, MOST = 10, 1.1
SIGMAS = {"bias_field": 0.5, "gain_offset": 0.1, "voxels": 0.0625, "dct_bands": 0.3, "fourier_shift": 1.0}


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", SIGMAS)
def test_draws_cost_little_more_than_their_passes(
    kind: str, measured: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    fast = request.config.getoption("--fast")
    torch.set_num_threads(1)
    keep_freed_memory()  # as `certify` and `run` do
    model, case = fb.load_model("zoo://phantom/unet"), fb.load_dataset("phantom", split="test")[0]
    dataset, source = model._fitted(case)
    volume = case._in(dataset, source.space)
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
        memory.predicted(network, volume.image, volume, memory.INFERENCE_WINDOWS, with_confidence=False)

    def seconds(action: Any) -> float:
        started = time.process_time()
        action()
        return time.process_time() - started

    turns = [(seconds(bare), seconds(draws)) for _ in range(TURNS)]
    ratio = statistics.median(drawn / passes for passes, drawn in turns)
    measured.append(
        {
            "what": f"{TURNS * samples} draws of a phantom case, {len(crops)} windows each",
            "kind": kind,
            "bare passes, s": sum(passes for passes, _ in turns),
            "draws, s": sum(drawn for _, drawn in turns),
            "ratio": ratio,
        }
    )
    assert fast or ratio <= MOST
