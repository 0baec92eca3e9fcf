"""Speed of an attack's step as a ratio to the bare model's: `pytest -m benchmark -s tests/benchmarks`.

The bare step is one forward pass and one backward pass to the input, a fixed gradient being sent back from the logits.
Both are measured in the same run, in turns, on the paper's UNet (14 classes, 96^3, batch 1), no parameter gradients.
"""

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from freqbench.attacks import make
from freqbench.models import SegmentationModel, build

ROUNDS = 7
STEPS = 2
ROI = (96, 96, 96)


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_pgd_step_costs_hardly_more_than_the_bare_step() -> None:
    model = SegmentationModel(build("unet", 14, ROI, {}), ROI).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 1, *ROI, generator=generator)
    labels = torch.randint(0, 14, images.shape, generator=generator)
    upstream = torch.randn(1, 14, *ROI, generator=generator)
    attack = make("pgd", eps=8 / 255, steps=STEPS)

    def bare() -> None:
        for _ in range(STEPS):
            x = images.clone().requires_grad_()
            torch.autograd.grad(model(x), x, upstream)

    bare(), attack(model, images, labels)
    pairs = [(seconds(bare), seconds(lambda: attack(model, images, labels))) for _ in range(ROUNDS)]
    bare_s, attack_s = (statistics.median(column) / STEPS for column in zip(*pairs, strict=True))
    ratio = statistics.median(attack_s / bare_s for bare_s, attack_s in pairs)
    threads = torch.get_num_threads()
    print(f"\npgd: bare step {bare_s:.3f} s, attack step {attack_s:.3f} s, ratio {ratio:.3f}, threads {threads}")
    assert ratio <= 1.15
