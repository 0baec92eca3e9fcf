"""Speed and memory of an attack's step against the bare model's: `pytest -m benchmark -s tests/benchmarks`.

The bare step is one forward pass and one backward pass to the input, a fixed gradient being sent back from the logits.
Both are measured in the same run, in turns, on the paper's UNet (14 classes, 96^3, batch 1), no parameter gradients.
Where there is a GPU, UNet and UNETR are measured there too, batch 4 with TF32 inside the network; no bound is set.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from freqbench.attacks import Attack, make
from freqbench.models import SegmentationModel, build

ROUNDS = 7
STEPS = 2
ROI = (96, 96, 96)
GIB = 2**30

FREQUENCY = [(name, {"block": block}) for name in ("vafa", "sa2") for block in (8, 16, 32)]
BOUNDS: list[tuple[str, dict[str, Any], float]] = [
    ("pgd", {"eps": 8 / 255}, 1.15),
    ("apgd", {"eps": 8 / 255, "keep": "last"}, 1.15),
    *((name, parameters, 1.3) for name, parameters in FREQUENCY),
]


class Bench:
    """A network, a batch and the two actions that are measured in turns."""

    def __init__(self, arch: str = "unet", batch: int = 1, device: str = "cpu", precision: str = "fp32") -> None:
        net = build(arch, 14, ROI, {})
        self.model = SegmentationModel(net, ROI, precision).to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(batch, 1, *ROI, generator=generator).to(device)
        self.labels = torch.randint(0, 14, self.images.shape, generator=generator).to(device)
        self.upstream = torch.randn(batch, 14, *ROI, generator=generator).to(device)

    def bare(self) -> None:
        for _ in range(STEPS):
            x = self.images.clone().requires_grad_()
            torch.autograd.grad(self.model(x), x, self.upstream)

    def compare(self, attack: Attack, rounds: int) -> tuple[float, float, float]:
        """Seconds of a bare step and of the attack's, and the median of their ratios."""

        def attacked() -> None:
            attack(self.model, self.images, self.labels)

        self.bare(), attacked()
        pairs = [(self.seconds(self.bare), self.seconds(attacked)) for _ in range(rounds)]
        bare, own = (statistics.median(column) / STEPS for column in zip(*pairs, strict=True))
        return bare, own, statistics.median(b / a for a, b in pairs)

    def seconds(self, action: Callable[[], object]) -> float:
        self.wait()
        started = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@pytest.fixture(scope="module")
def cpu() -> Bench:
    return Bench()


def report(where: str, attack: Attack, measured: tuple[float, float, float]) -> None:
    bare, own, ratio = measured
    block = f" block {attack.block}" if hasattr(attack, "block") else ""
    print(f"\n{attack.name}{block}, {where}: bare step {bare:.4f} s, attack step {own:.4f} s, ratio {ratio:.3f}")


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "parameters", "bound"), BOUNDS)
def test_a_step_costs_hardly_more_than_the_bare_step(
    cpu: Bench, name: str, parameters: dict[str, Any], bound: float
) -> None:
    attack = make(name, steps=STEPS, **parameters)
    measured = cpu.compare(attack, ROUNDS)
    report(f"unet batch 1, CPU, {torch.get_num_threads()} threads", attack, measured)
    assert measured[2] <= bound


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("arch", ["unet", "unetr"])
def test_what_a_step_costs_on_a_gpu(arch: str) -> None:
    bench = Bench(arch, batch=4, device="cuda", precision="tf32")
    for name, parameters in [("pgd", {"eps": 8 / 255}), ("apgd", {"eps": 8 / 255, "keep": "last"}), *FREQUENCY]:
        attack = make(name, steps=STEPS, **parameters)
        measured = bench.compare(attack, rounds=20)
        report(f"{arch} batch 4, TF32, {torch.cuda.get_device_name()}", attack, measured)


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["vafa", "sa2"])
def test_a_step_takes_hardly_more_memory_than_the_bare_step(name: str) -> None:
    """Peak memory of two processes, one that takes bare steps and one that attacks."""
    peaks = [
        int(subprocess.run([sys.executable, __file__, what], capture_output=True, text=True, check=True).stdout)
        for what in ("bare", name)
    ]
    bare, own = (peak / GIB for peak in peaks)
    print(f"\n{name}: bare step {bare:.2f} GiB, attack {own:.2f} GiB")
    assert own - bare <= 0.6


def peak_bytes(what: str) -> int:
    """The most memory that this process held, after the bare steps or after an attack with blocks of 8."""
    bench = Bench()
    if what == "bare":
        bench.bare()
    else:
        make(what, steps=STEPS, block=8)(bench.model, bench.images, bench.labels)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(peak_bytes(sys.argv[1]))
